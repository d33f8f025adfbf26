#!/usr/bin/env bash
# deploy.sh IMAGE [BACKUP_IMAGE]: migrate, switch without dropping a request, try it, and go back by itself if that fails.
# On the server, in the project's folder: make deploy ENV=prod IMAGE=registry/name@sha256:… BACKUP_IMAGE=…
set -Eeuo pipefail # E: a failure inside a function reaches the trap as well
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. ops/scripts/release.sh

# Checks first, impact second.
image=${1-} backup=${2-}
[ -n "$image" ] || die "usage: make deploy ENV=stage|prod IMAGE=name@sha256:… [BACKUP_IMAGE=name@sha256:…]"
case $environment in stage | prod) ;; *) die "ENV is stage or prod; for dev: make up" ;; esac
[ -e .env ] || die "no .env here; write one with \`make setup\` and copy it to this server"
exec 9>.env.lock
flock --nonblock 9 || die "another deploy is running"
old_image=$(setting APP_IMAGE)
old_backup=$(setting BACKUP_IMAGE)
backup=${backup:-$old_backup}
use_images "$image" "$backup"
give_up() { # after the first impact: the old images again
  say "failed; going back to ${old_image:-the image built here}"
  use_images "$old_image" "$old_backup"
}
trap give_up ERR
# What a deploy causes for a moment rings nobody; it says so itself when it fails.
if [ -e ops/scripts/silence.sh ]; then
  ops/scripts/silence.sh start || say "alarms could not be silenced"
  trap 'ops/scripts/silence.sh end || true' EXIT
fi
compose config --quiet
if [ "${PULL:-1}" = 1 ]; then compose pull --quiet api backup; fi

say "neighbours"
neighbours=$(compose config --services | grep -vxE 'api|worker|beat|migrate|init-.*|backup|nginx|.*-volume')
# shellcheck disable=SC2086 # a list of names
compose up --detach --wait $neighbours
say "migrations" # additive ones: the old code runs on until the switch, and again after a rollback
compose run --rm --no-deps migrate
compose run --rm --no-deps init-storage

back() {
  trap - ERR
  give_up
  [ -z "$switched" ] || switch_api || say "the old API did not come up: docs/runbook/rollback.md"
  switch_rest || say "the old worker did not come up: docs/runbook/rollback.md"
  exit 1
}
trap back ERR
say "switching"
switched=
switch_api
switched=1 # from here on the new API serves
switch_rest
say "trying it"
smoke
trap - ERR

mkdir -p "$state"
printf '%s\n%s\n' "$old_image" "$old_backup" >"$state/previous"
printf '%s %s %s\n' "$(date -u +%FT%TZ)" "$image" "$backup" >>"$state/history"
say "$environment runs $image"
