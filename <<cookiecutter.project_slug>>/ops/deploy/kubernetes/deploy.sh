#!/usr/bin/env bash
# deploy.sh ENVIRONMENT IMAGE BACKUP_IMAGE: neighbours, migrations, switch, try it; and go back by itself if that fails.
# Speaks with the cluster of the current kubectl context. DEPLOY_URL, if set, is asked at the end: https://…
set -Eeuo pipefail # E: a failure inside a function reaches the trap as well
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
. ops/deploy/kubernetes/release.sh
[ $# = 3 ] || die "usage: deploy.sh staging|production NAME@sha256:… NAME@sha256:…"
environment=$1 image=$2 backup=$3

# Checks first, impact second.
work=$(mktemp -d)
trap 'rm -rf "$work"; silence end' EXIT
ops/deploy/kubernetes/render.sh "$environment" "$image" "$backup" >"$work/all.yaml"
namespace=$(sed -n '/^kind: Namespace$/,/^---$/s/^  name: //p' "$work/all.yaml")
[ -n "$namespace" ] || die "the overlay $environment has no Namespace"
say "checking, against the cluster itself"
# A namespace that is not there yet makes the first deploy's dry run impossible, and only that one's.
if in_namespace get namespace "$namespace" --output name >/dev/null 2>&1; then
  apply --dry-run=server >/dev/null
fi

silence start

say "neighbours"
apply --selector 'step notin (jobs,app,schedules)'
wait_for externalsecret --all --for=condition=Ready --timeout=120s
for set in broker cache; do in_namespace rollout status "statefulset/$set" --timeout=300s; done
if grep -q '^kind: Cluster$' "$work/all.yaml"; then wait_for cluster/postgres --for=condition=Ready --timeout=900s; fi

say "migrations" # additive ones: the old code runs on until the switch, and again after going back
in_namespace delete job migrate init-storage --ignore-not-found --wait
apply --selector step=jobs
for job in migrate init-storage; do
  job_done "$job" || { in_namespace logs "job/$job" --tail=50 >&2 || true; die "$job failed; nothing was switched"; }
done

say "switching"
remember "$work/before"
back() {
  trap - ERR
  say "failed; going back"
  go_back "$work/before" || say "the old version did not come up: docs/runbook/rollback.md"
  exit 1
}
trap back ERR
apply --selector step=app
for deployment in $deployments; do in_namespace rollout status "deployment/$deployment" --timeout=360s; done
say "trying it"
smoke
trap - ERR

apply --selector step=schedules # last, so that a release that failed never makes a backup
note_release "$image" "$backup"
say "$environment runs $image"
