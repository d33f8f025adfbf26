#!/usr/bin/env bash
# rollback.sh: the images before the last deploy. Migrations stay: they are additive, so the older code runs on them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. ops/scripts/release.sh

[ -e "$state/previous" ] || die "nothing was deployed here before: no $state/previous"
{ read -r image && read -r backup; } <"$state/previous" || true
[ -n "${image:-}" ] || die "the previous image was built on this machine; name one: make deploy IMAGE=…"
now=$(setting APP_IMAGE)
now_backup=$(setting BACKUP_IMAGE)
say "from $now to $image"
use_images "$image" "${backup:-}"
switch_api
switch_rest
smoke
printf '%s\n%s\n' "$now" "$now_backup" >"$state/previous"
printf '%s %s %s rollback\n' "$(date -u +%FT%TZ)" "$image" "${backup:-}" >>"$state/history"
say "$environment runs $image"
