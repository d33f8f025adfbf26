#!/usr/bin/env bash
# digest.sh REGISTRY/NAME TAG: the image by its digest; an error where there is none of that tag.
set -euo pipefail
[ $# = 2 ] || { echo "usage: digest.sh REGISTRY/NAME TAG" >&2; exit 2; }
if [[ $1 =~ ^[0-9]+\.dkr\.ecr\.([a-z0-9-]+)\. ]]; then export AWS_REGION="${BASH_REMATCH[1]}" AWS_DEFAULT_REGION="${BASH_REMATCH[1]}"; fi
digest=$(aws ecr describe-images --repository-name "${1#*/}" --image-ids "imageTag=$2" \
  --query 'imageDetails[0].imageDigest' --output text)
echo "$1@$digest"
