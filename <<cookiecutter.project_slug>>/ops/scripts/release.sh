# shellcheck shell=bash
# What deploy.sh and rollback.sh share. Sourced, in the project's folder.

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
die() { say "$@"; exit 1; }

environment=${ENV:-prod}
# shellcheck disable=SC2034 # used by those who source this
state=.release/$environment # previous: the images before the last deploy; history: one line for each

compose() {
  local files=(--file compose.yaml) file
  for file in ops/compose/rooms/*.yaml; do
    if [ -e "$file" ]; then files+=(--file "$file"); fi
  done
  docker compose "${files[@]}" --file "ops/compose/$environment.yaml" "$@"
}

setting() { # NAME: its value in .env
  sed -n "s/^$1=//p" .env | tail -n 1
}

set_setting() { # NAME VALUE: into .env, all at once, so that an interruption leaves the old file or the new one
  local fresh
  fresh=$(mktemp .env.XXXXXX)
  chmod 600 "$fresh"
  grep -v "^$1=" .env >"$fresh" || true
  printf '%s=%s\n' "$1" "$2" >>"$fresh"
  mv "$fresh" .env
}

use_images() { # APP BACKUP: from now on everything starts from these, also a plain `make up`
  set_setting APP_IMAGE "$1"
  set_setting BACKUP_IMAGE "$2"
  # What a shell or a workflow has set would win over .env.
  unset APP_IMAGE BACKUP_IMAGE
}

healthy() { # CONTAINER: wait until its health check says so
  local status
  for _ in $(seq 120); do
    status=$(docker inspect --format '{{.State.Health.Status}}' "$1" 2>/dev/null || echo gone)
    case $status in
    healthy) return 0 ;;
    unhealthy | gone) break ;;
    esac
    sleep 1
  done
  say "container $1 is $status; its last lines:"
  docker logs --tail 20 "$1" >&2 || true
  return 1
}

switch_api() { # a new container beside the old one; nginx finds both by name, and the old one leaves when it is not needed
  local new
  mkdir -p "$state"
  compose ps --quiet api | sort >"$state/old"
  if [ ! -s "$state/old" ]; then
    compose up --detach --no-deps --wait api
    return
  fi
  compose up --detach --no-deps --no-recreate --scale "api=$(($(wc -l <"$state/old") + 1))" api
  new=$(compose ps --quiet api | sort | comm -13 "$state/old" -)
  if ! healthy "$new"; then
    docker rm --force "$new" >/dev/null
    return 1
  fi
  # nginx asks Docker's DNS every 2 s: three times, and the new one serves as well.
  sleep 6
  xargs docker stop --time 30 <"$state/old" >/dev/null # it answers what it has begun
  xargs docker rm <"$state/old" >/dev/null
}

switch_rest() {
  compose up --detach --no-deps --wait worker beat backup nginx
  # The templates may be new: rendered and tested in place, then taken over without dropping a connection.
  compose exec -T nginx sh -ec '/docker-entrypoint.d/20-envsubst-on-templates.sh
    nginx -q -p /run/nginx/ -c /run/nginx/nginx.conf -e stderr -t
    nginx -p /run/nginx/ -c /run/nginx/nginx.conf -e stderr -s reload'
}

smoke() { # from outside, through nginx, as a client comes in
  local name port scheme=https
  name=$(setting DOMAIN)
  [ "$(setting NGINX_ENTRY)" != plain ] || scheme=http
  if [ $scheme = https ]; then port=$(setting HTTPS_PORT) && port=${port:-443}; else port=$(setting HTTP_PORT) && port=${port:-80}; fi
  # --insecure: this asks whether the service answers, and the address is this machine's; the certificate is watched elsewhere.
  curl --fail --silent --show-error --max-time 10 --retry 5 --retry-delay 2 --retry-all-errors --insecure \
    --connect-to "::127.0.0.1:$port" --output /dev/null "$scheme://${name:-localhost}:$port/health/ready"
}
