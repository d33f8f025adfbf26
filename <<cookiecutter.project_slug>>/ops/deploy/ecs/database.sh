#!/usr/bin/env bash
# database.sh ENVIRONMENT BACKUP_IMAGE: make the role of the application, its database and the extension. Once, by a person:
# the role of the workflow may not start this task, as it holds the master's password.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
. ops/deploy/ecs/release.sh
[ $# = 2 ] || die "usage: database.sh staging|production NAME@sha256:…"
begin "$1"
requests "$1" "$2" "$2"
run_once database "$(register database)" || die "failed; it can be run again"
say "the database of $1 is ready"
