#!/usr/bin/env bash
# rollback.sh: the images before the last deploy. Migrations stay: they are additive, so the older code runs on them.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. ops/scripts/release.sh

checks
[ -e "$state/previous" ] || die "nothing was deployed here before: no $state/previous"
{ read -r image && read -r backup; } <"$state/previous" || true
[ -n "${image:-}" ] || die "the previous image was built on this machine; name one: make deploy IMAGE=…"
say "from ${old_app:-the image built here} to $image"
release "$image" "${backup:-}"
record rollback
