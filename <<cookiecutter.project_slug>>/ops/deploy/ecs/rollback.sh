#!/usr/bin/env bash
# rollback.sh ENVIRONMENT: the revisions before the last deploy, with their settings. A second run returns. Migrations stay:
# they are additive, so the older code runs on them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
. ops/deploy/ecs/release.sh
[ $# = 1 ] || die "usage: rollback.sh staging|production"
begin "$1"

noted release-before >"$work/before"
grep -q ^web "$work/before" ||
  die "nothing was deployed here before the last release; name an image: make deploy ENV=$1 IMAGE=… BACKUP_IMAGE=…"
say "to $(sed -n 's/^web\t.*\///p' "$work/before")"
go_back "$work/before" || die "it did not come up: docs/runbook/rollback.md"
smoke
note_release "$work/before"
say "$1 runs $(sed -n 's/^web\t.*\///p' "$work/before") again"
