#!/usr/bin/env bash
# provision.sh ENVIRONMENT: everything that lives longer than a release, out of environments/ENVIRONMENT.toml; again after each
# change of it. By an administrator of the account, from a desk with the project set up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
. ops/deploy/ecs/release.sh
[ $# = 1 ] || die "usage: provision.sh staging|production"
begin "$1"

stack() { # TEMPLATE STACK REGION
  local all line given=()
  all=$(python3 ops/deploy/ecs/render.py "$environment" parameters "$1")
  while read -r line; do given+=("$line"); done <<<"$all"
  say "stack $2 in $3"
  aws cloudformation deploy --region "$3" --stack-name "$2" --template-file "ops/deploy/ecs/$1.yaml" \
    --capabilities CAPABILITY_IAM --no-fail-on-empty-changeset --parameter-overrides "${given[@]}" >&2
  aws cloudformation update-termination-protection --region "$3" --stack-name "$2" --enable-termination-protection >/dev/null
}
environment=$1
stack account "$account-account" "$region"
stack backups "$name-backups" "$backup_region"
stack environment "$name" "$region" # a quarter of an hour the first time

say "secrets that are ours to choose, where there are none yet"
curl --fail --silent --show-error --max-time 30 --retry 3 --output "$work/authority.pem" \
  "https://truststore.pki.rds.amazonaws.com/$region/$region-bundle.pem"
python -m ops.deploy.ecs.fill "$environment" "$work/authority.pem"

say "for GitHub: docs/ecs.md, By itself from then on"
for of in "$account-account" "$name"; do
  aws cloudformation describe-stacks --stack-name "$of" --output text \
    --query "Stacks[0].Outputs[?ends_with(OutputKey, 'Role') || OutputKey=='Registry' || OutputKey=='DoorName'].[OutputKey, OutputValue]"
done
