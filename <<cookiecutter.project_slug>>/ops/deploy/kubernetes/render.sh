#!/usr/bin/env bash
# render.sh ENVIRONMENT IMAGE BACKUP_IMAGE: an overlay with both images by digest, as kubectl takes it, on standard output.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
[ $# = 3 ] || { echo "usage: render.sh staging|production NAME@sha256:… NAME@sha256:…" >&2; exit 2; }
environment=$1
[ -d "ops/deploy/kubernetes/overlays/$environment" ] || { echo "render.sh: no overlay $environment" >&2; exit 2; }
for image in "$2" "$3"; do
  [[ $image =~ ^[^@[:space:]]+@sha256:[0-9a-f]{64}$ ]] ||
    { echo "render.sh: '$image' is no NAME@sha256:…: a tag may be another image tomorrow" >&2; exit 2; }
done

# What `kustomize edit set image` would write, in a folder of its own, so that no tracked file changes.
mkdir -p .release
folder=$(mktemp -d .release/render.XXXXXX)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/kustomization.yaml" <<EOF
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../ops/deploy/kubernetes/overlays/$environment]
images:
  - { name: app, newName: "${2%@*}", digest: "${2#*@}" }
  - { name: app-backup, newName: "${3%@*}", digest: "${3#*@}" }
EOF
if command -v kubectl >/dev/null; then kubectl kustomize "$folder"; else kustomize build "$folder"; fi
