#!/usr/bin/env bash
# once.sh ENVIRONMENT COMMAND...: run a command of the project as a task of its own, with the image and the settings that
# run now, and print what it says. SERVICE, if set, is another service than the API, whose image, settings and role it gets.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
. ops/deploy/ecs/release.sh
[ $# -ge 2 ] || die "usage: once.sh staging|production COMMAND..."
begin "$1"

service=${SERVICE:-web}
definition=$(running | sed -n "s/^$service\t//p")
[ -n "$definition" ] || die "nothing is deployed in $1 yet"
network=$(aws ecs describe-services --cluster "$name" --services "$service" --query 'services[0].networkConfiguration' --output json)
echo "{\"cluster\": \"$name\", \"launchType\": \"FARGATE\", \"networkConfiguration\": $network}" >"$work/run.json"
python3 ops/deploy/ecs/render.py "$1" command "${@:2}" >"$work/overrides.json"
run_once "$service" "$definition" --overrides "file://$work/overrides.json"
