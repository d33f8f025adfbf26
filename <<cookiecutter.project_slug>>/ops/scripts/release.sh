# shellcheck shell=bash
# What deploy.sh and rollback.sh share. Sourced, in the project's folder.
# The order of a release keeps every step but the last one free of effect for clients: the new API and the new worker
# stand beside the old ones, are tried by themselves, and the old ones end when nothing can fail any more.

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
die() { say "$@"; exit 1; }

environment=${ENV:-prod}
state=.release/$environment # previous: the images before the last deploy; history: one line for each
# The images of the release under way. .env names those that serve, until the new ones do.
app_image='' backup_image=''
added=() # containers that stand beside the old ones and go if the release fails
pinned='' # whether nginx asks one container by its address

compose() {
  local files=(--file compose.yaml) file
  for file in ops/compose/rooms/*.yaml "ops/compose/$environment.yaml" ${COMPOSE_OVERRIDES:-}; do
    if [ -e "$file" ]; then files+=(--file "$file"); fi
  done
  APP_IMAGE=$app_image BACKUP_IMAGE=$backup_image docker compose "${files[@]}" "$@"
}

setting() { # NAME: its value in .env
  sed -n "s/^$1=//p" .env | tail -n 1
}

keep_images() { # into .env, all at once, so that an interruption leaves the old file or the new one
  local fresh
  fresh=$(mktemp .env.XXXXXX)
  chmod --reference=.env "$fresh"
  grep -vE '^(APP_IMAGE|BACKUP_IMAGE)=' .env >"$fresh" || true
  printf 'APP_IMAGE=%s\nBACKUP_IMAGE=%s\n' "$app_image" "$backup_image" >>"$fresh"
  mv "$fresh" .env
}

checks() { # what both scripts need, before the first impact
  case $environment in stage | prod) ;; *) die "ENV is stage or prod; for dev: make up" ;; esac
  [ -e .env ] || die "no .env here; write one with \`make setup\` and copy it to this server"
  exec 9>.env.lock
  flock --nonblock 9 || die "another deploy is running"
  unset APP_IMAGE BACKUP_IMAGE # what a shell has set must not be taken for what .env says
  old_app=$(setting APP_IMAGE)
  old_backup=$(setting BACKUP_IMAGE)
}

# KIND: neighbour (what the release stands on) and preparation (runs once, before those), job (runs once, from an image of
# the release), follower (stays, from one or behind one; but API, worker and nginx, which have their own ways)
services() {
  compose config | awk -v kind="$1" -v app="$(image_of api)" -v backup="$(image_of backup)" '
    function close_service() { # no is quoted, in one way or the other
      if (name == "") return
      ours[name] = (image == app || image == backup)
      once[name] = (restart ~ /^.no.$/)
      names[++count] = name
      name = ""
    }
    /^[^ ]/ { close_service(); inside = /^services:/ }
    inside && /^  [^ ].*:$/ { close_service(); name = substr($1, 1, length($1) - 1); image = restart = part = "" }
    inside && /^    [^ ]/ { part = $1 }
    inside && /^    image: / { image = $2 }
    inside && /^    restart: / { restart = $2 }
    inside && part == "depends_on:" && /^      [^ ].*:$/ { needs[name] = needs[name] " " substr($1, 1, length($1) - 1) }
    function behind(service,   list, i, n) { # whether it comes after something of the release
      if (ours[service] || service == "nginx") return 1
      n = split(needs[service], list, " ")
      for (i = 1; i <= n; i++) if (behind(list[i])) return 1
      return 0
    }
    END {
      close_service()
      for (i = 1; i <= count; i++) {
        s = names[i]
        if (s == "api" || s == "worker" || s == "nginx") continue
        if (kind == (once[s] ? (ours[s] ? "job" : "preparation") : (behind(s) ? "follower" : "neighbour"))) print s
      }
    }'
}

image_of() { # SERVICE: as Compose names it
  compose config | awk -v want="  $1:" '$0 == want { found = 1; next } /^  [^ ]/ { found = 0 } found && /^    image: / { print $2; found = 0 }'
}

healthy() { # CONTAINER: wait until its health check says so
  local status
  for _ in $(seq 400); do # 200 s
    status=$(docker inspect --format '{{.State.Health.Status}}' "$1" 2>/dev/null || echo gone)
    case $status in
    healthy) return 0 ;;
    unhealthy | gone) break ;;
    esac
    # One that ends is started again and again: it will not come up.
    if [ "$(docker inspect --format '{{.RestartCount}}' "$1")" -ge 3 ]; then status='ending again and again' && break; fi
    sleep 0.5
  done
  say "container $(docker inspect --format '{{.Name}}' "$1" 2>/dev/null || echo "$1") is $status; its last lines:"
  docker logs --tail 20 "$1" >&2 || true
  return 1
}

address() { # CONTAINER: in the network that it shares with nginx
  docker inspect --format '{{range $name, $network := .NetworkSettings.Networks}}{{$name}} {{$network.IPAddress}}{{"\n"}}{{end}}' "$1" |
    sed -n 's/^.*_front //p'
}

beside() { # SERVICE: a new container beside those that run; its id goes to $new
  local before=$state/before
  compose ps --quiet "$1" | sort >"$before"
  compose up --detach --no-deps --no-recreate --scale "$1=$(($(wc -l <"$before") + 1))" "$1"
  new=$(compose ps --quiet --all "$1" | sort | comm -13 "$before" -)
  [ -n "$new" ] || { say "Compose made no new container of $1"; return 1; }
  added+=("$new")
  healthy "$new"
}

nginx_asks() { # SERVERS: what `server …` says in the upstream; taken over without dropping a connection
  # shellcheck disable=SC2016 # $NGINX_API_SERVER is the container's
  compose exec -T --env NGINX_API_SERVER="$1" nginx sh -ec '
    /docker-entrypoint.d/20-envsubst-on-templates.sh >/dev/null
    nginx -q -p /run/nginx/ -c /run/nginx/nginx.conf -e stderr -t
    nginx -p /run/nginx/ -c /run/nginx/nginx.conf -e stderr -s reload'
}
pin() { # CONTAINER: nginx asks this one alone; any other only if it does not answer
  nginx_asks "$(address "$1"):8000 max_fails=3 fail_timeout=2s; server api:8000 resolve backup"
  pinned=$1
}
unpin() { # whatever is called `api`, as nginx asks when it starts: addresses change when containers start again
  # First both: a fresh worker process of nginx knows no address of a name in its first moments.
  if [ -n "$pinned" ]; then
    nginx_asks "$(address "$pinned"):8000 max_fails=3 fail_timeout=2s; server api:8000 resolve"
    sleep 3
  fi
  nginx_asks "api:8000 resolve"
  pinned=''
}
answered() { # wait until nginx's former worker processes have answered what they had begun; WebSockets they keep, so not for ever
  for _ in $(seq "${DRAIN_SECONDS:-35}"); do
    compose exec -T nginx sh -c 'cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\0" " " | grep -q "[s]hutting down"' || return 0
    sleep 1
  done
  say "nginx still holds open streams or WebSockets of the old version; their clients connect again"
}

ready() { # CONTAINER: the API in it, asked past nginx
  docker exec "$1" python -c '
import sys, time, urllib.request
for attempt in range(20):
    try:
        urllib.request.urlopen("http://127.0.0.1:8000/health/ready", timeout=5)
        sys.exit()
    except OSError as error:
        last = error
        time.sleep(0.5)
sys.exit(f"/health/ready: {last}")'
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

up() { # SERVICE...: none is none, where Compose would take all
  if [ $# -gt 0 ]; then compose up --detach --no-deps --wait --wait-timeout 180 "$@"; fi
}

changed() { # SERVICE: whether it would be made anew
  local running
  running=$(compose ps --quiet "$1" | head -n 1)
  [ -z "$running" ] ||
    [ "$(compose config --hash "$1" | cut -d' ' -f2)" != "$(docker inspect --format '{{index .Config.Labels "com.docker.compose.config-hash"}}' "$running")" ]
}

give_up() { # the old images again; the old API and the old worker have never stopped
  trap - ERR
  trap '' HUP INT TERM # going back is not cut off, and goes on where a step of it fails
  set +e
  say "failed; ${old_app:-the image built here} serves on"
  app_image=$old_app backup_image=$old_backup
  if [ -n "$serving" ]; then
    if [ -n "$pinned" ]; then pin "$serving" && answered; fi
    if [ ${#added[@]} -gt 0 ]; then docker rm --force "${added[@]}" >/dev/null; fi
    if [ -n "$pinned" ]; then unpin || say "nginx could not be told: docker compose restart nginx"; fi
    # shellcheck disable=SC2046 # a list of names
    if [ -n "$followed" ]; then up $(services follower) || say "the old services did not all come up: docs/runbook/rollback.md"; fi
  fi
  exit 1
}

release() { # APP BACKUP: switch to these images, or leave everything as it is and exit with 1
  local old_apis old_workers candidate followers
  app_image=$1 backup_image=$2
  mkdir -p "$state"
  serving='' followed=''
  trap give_up ERR HUP INT TERM
  compose config --quiet
  old_apis=$(compose ps --quiet api)
  old_workers=$(compose ps --quiet worker)
  if [ -z "$old_apis" ]; then # nothing to keep running
    say "first start"
    compose up --detach --wait
    smoke
    trap - ERR HUP INT TERM
    return
  fi
  serving=$(head -n 1 <<<"$old_apis")
  if changed nginx; then # a port cannot have two owners
    say "nginx itself changes: for about a second nobody listens"
    up nginx
  fi
  pin "$serving" # a container is found by its name as soon as it starts, long before it is known to be good
  say "a new API beside the old one"
  beside api
  candidate=$new
  ready "$candidate"
  say "a new worker beside the old one"
  beside worker
  say "what follows the release"
  followed=1
  followers=$(services follower)
  # shellcheck disable=SC2086 # a list of names
  up $followers
  say "switching"
  pin "$candidate"
  smoke
  trap - ERR
  trap '' HUP INT TERM # from here on nothing can fail that going back would mend
  keep_images
  answered
  # shellcheck disable=SC2086 # a list of ids
  docker stop --time 30 $old_apis >/dev/null && docker rm $old_apis >/dev/null
  unpin
  # shellcheck disable=SC2086
  [ -z "$old_workers" ] || { docker stop --time 90 $old_workers >/dev/null && docker rm $old_workers >/dev/null; }
  trap - HUP INT TERM
}

record() { # WORD: what was replaced, for a rollback; and a line of history
  printf '%s\n%s\n' "$old_app" "$old_backup" >"$state/previous"
  printf '%s %s %s %s\n' "$(date -u +%FT%TZ)" "$1" "$app_image" "$backup_image" >>"$state/history"
  say "$environment runs $app_image"
}
