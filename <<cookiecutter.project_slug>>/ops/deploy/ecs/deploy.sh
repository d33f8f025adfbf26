#!/usr/bin/env bash
# deploy.sh ENVIRONMENT IMAGE BACKUP_IMAGE: new revisions, migrations, switch, try it; and go back by itself if that fails.
# By the credentials of the environment or of ~/.aws. DEPLOY_URL, if set, is asked at the end: https://…
set -Eeuo pipefail # E: a failure inside a function reaches the trap as well
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
. ops/deploy/ecs/release.sh
[ $# = 3 ] || die "usage: deploy.sh staging|production NAME@sha256:… NAME@sha256:…"
environment=$1 image=$2 backup=$3
begin "$environment"

# Checks first, impact second.
requests "$environment" "$image" "$backup"
running >"$work/before"
say "new revisions"
migrate=$(register migrate)
for service in $services backup; do
  printf '%s\t%s\n' "$service" "$(register "$service")" >>"$work/after"
done

say "migrations" # additive ones: the old code runs on until the switch, and again after going back
run_once migrate "$migrate" >&2 || die "migrate failed; nothing was switched"

say "switching"
back() {
  trap - ERR
  say "failed; going back"
  [ -s "$work/before" ] || say "this was the first release: there is nothing to go back to"
  go_back "$work/before" || say "the old version did not come up: docs/runbook/rollback.md"
  exit 1
}
trap back ERR
grep -v ^backup "$work/after" >"$work/app"
while IFS=$'\t' read -r service definition; do switch "$service" "$definition"; done <"$work/app"
settled "$work/app"
say "trying it"
smoke
switch backup "$(sed -n 's/^backup\t//p' "$work/after")"
settled "$work/after"
for file in "$work"/scaling/*.json; do
  aws application-autoscaling register-scalable-target --cli-input-json "file://$file" >/dev/null
  aws application-autoscaling put-scaling-policy --cli-input-json "file://$work/policies/${file##*/}" >/dev/null
done
trap - ERR

note_release "$work/after"
say "$environment runs $image"
