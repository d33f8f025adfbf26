#!/usr/bin/env bash
# deploy.sh IMAGE [BACKUP_IMAGE]: migrate, switch without dropping a request, try it, and stay with the old version if that fails.
# On the server, in the project's folder: make deploy ENV=prod IMAGE=registry/name@sha256:… BACKUP_IMAGE=…
# PULL=0 takes images that are on the machine; COMPOSE_OVERRIDES="file…" adds Compose files of one's own, the last ones to count.
set -Eeuo pipefail # E: a failure inside a function reaches the trap as well
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. ops/scripts/release.sh

# Checks first, impact second.
[ -n "${1-}" ] || die "usage: make deploy ENV=stage|prod IMAGE=name@sha256:… [BACKUP_IMAGE=name@sha256:…]"
checks
trap 'say "failed; nothing was switched: docs/runbook/deploy.md"' ERR
app_image=$1 backup_image=${2:-$old_backup}
# What a deploy causes for a moment rings nobody; it says so itself when it fails.
if [ -e ops/scripts/silence.sh ] && [ -n "$(compose ps --quiet api)" ]; then
  ops/scripts/silence.sh start || say "alarms could not be silenced"
  trap 'ops/scripts/silence.sh end || true' EXIT
fi
compose config --quiet
if [ "${PULL:-1}" = 1 ]; then # before anything stops: what is missing of the others, and the release
  compose pull --quiet --policy missing --ignore-buildable
  case $app_image in sha256:*) ;; *) compose pull --quiet --policy missing api backup ;; esac # by its id: it is on the machine
fi

say "neighbours"
preparations=$(services preparation) neighbours=$(services neighbour) jobs=$(services job)
for job in $preparations; do compose run --rm --no-deps "$job"; done
# shellcheck disable=SC2086 # a list of names
up $neighbours
for job in $jobs; do # the migrations among them: additive ones, as the old code serves on, and again after a rollback
  say "$job"
  compose run --rm --no-deps "$job"
done
release "$app_image" "$backup_image"
keep_images
record deploy
