#!/usr/bin/env bash
# rollback.sh ENVIRONMENT: the release before the last one, with its settings, by the cluster's own history. A second run
# returns. Migrations stay: they are additive, so the older code runs on them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
. ops/deploy/kubernetes/release.sh
[ $# = 1 ] || die "usage: rollback.sh staging|production"
file=ops/deploy/kubernetes/overlays/$1/kustomization.yaml
[ -e "$file" ] || die "no overlay $1"
namespace=$(sed -n 's/^namespace: //p' "$file")

image=$(in_namespace get configmap release --ignore-not-found --output 'jsonpath={.data.previous}')
backup=$(in_namespace get configmap release --ignore-not-found --output 'jsonpath={.data.previous-backup}')
[ -n "$image" ] || die "nothing was deployed here before the last release; name an image: make deploy ENV=$1 IMAGE=…"
say "to $image"
for deployment in $deployments; do in_namespace rollout undo "deployment/$deployment"; done
for deployment in $deployments; do in_namespace rollout status "deployment/$deployment" --timeout=360s; done
in_namespace set image cronjob --all "app=$backup"
smoke
note_release "$image" "$backup"
say "$1 runs $image"
