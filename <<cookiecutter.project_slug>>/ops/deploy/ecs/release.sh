# shellcheck shell=bash
# What the scripts of this folder share. Sourced, in the project's folder.

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
die() { say "$@"; exit 1; }

# What a release switches, in this order; the backups last, so that a release that failed never makes one.
# shellcheck disable=SC2034 # used by those who source this
services="web worker beat"

begin() { # ENVIRONMENT: its name, region, backup_region and account, and a folder for what is put together
  local all
  all=$(python3 ops/deploy/ecs/render.py "$1" variables) || exit 2
  # shellcheck disable=SC2034 # used by those who source this
  IFS=$'\t' read -r name region backup_region account <<<"$all"
  export AWS_REGION="$region" AWS_DEFAULT_REGION="$region" AWS_PAGER=""
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
}

requests() { # ENVIRONMENT IMAGE BACKUP_IMAGE: what is to be asked of ECS, as JSON in $work
  aws cloudformation describe-stacks --stack-name "$name" --query 'Stacks[0].Outputs' --output json >"$work/outputs.json" ||
    die "the stack $name is not there, or not for these credentials: docs/ecs.md, Once"
  python3 ops/deploy/ecs/render.py "$1" release "$work" "$2" "$3" || exit 2
}

register() { # TASK: a new revision of its definition; prints its ARN
  aws ecs register-task-definition --cli-input-json "file://$work/tasks/$1.json" \
    --query taskDefinition.taskDefinitionArn --output text
}

run_once() { # TASK DEFINITION [OPTIONS...]: run it, print its lines; true when it ended with 0
  local what=$1 definition=$2 arn state='' code=None reason
  shift 2
  arn=$(aws ecs run-task --cli-input-json "file://$work/run.json" --task-definition "$definition" \
    --query 'tasks[0].taskArn' --output text "$@")
  case $arn in arn:*) ;; *) say "$what could not be started"; return 1 ;; esac
  for _ in $(seq 720); do
    IFS=$'\t' read -r state code reason < <(aws ecs describe-tasks --cluster "$name" --tasks "$arn" --output text \
      --query 'tasks[0].[lastStatus, containers[0].exitCode, stoppedReason]')
    if [ "$state" = STOPPED ]; then break; fi
    sleep "${POLL_SECONDS:-5}"
  done
  aws logs filter-log-events --log-group-name "/ecs/$name" --log-stream-names "$what/app/${arn##*/}" --output text \
    --query 'events[-50:].[message]' || true # one that never started has none
  if [ "$state" != STOPPED ]; then say "$what still runs after an hour: $arn"; return 1; fi
  if [ "$code" != 0 ]; then say "$what ended with ${code/None/nothing: $reason}"; return 1; fi
}

running() { # which revisions the services are to run now: a line each
  # shellcheck disable=SC2086
  aws ecs describe-services --cluster "$name" --services $services backup --output text \
    --query "services[?status=='ACTIVE'].[serviceName, taskDefinition]"
}

switch() { # SERVICE DEFINITION: a new deployment of it; the first one makes it
  if grep -q "^$1"$'\t' "$work/before"; then
    aws ecs update-service --cli-input-json "file://$work/updates/$1.json" --task-definition "$2" >/dev/null
  else
    aws ecs create-service --cli-input-json "file://$work/services/$1.json" --task-definition "$2" >/dev/null
  fi
}

settled() { # FILE: wait until all services in it run the revision beside them; false as soon as one will not
  local service wanted definition state waiting said=''
  [ -s "$1" ] || return 0
  for _ in $(seq 360); do
    # shellcheck disable=SC2046 # names of services
    aws ecs describe-services --cluster "$name" --services $(cut -f 1 "$1") --output text >"$work/state" --query "services[].[
      serviceName, deployments[?status=='PRIMARY'].taskDefinition | [0], deployments[?status=='PRIMARY'].rolloutState | [0]]"
    waiting=''
    while IFS=$'\t' read -r service wanted; do
      IFS=$'\t' read -r _ definition state < <(grep "^$service"$'\t' "$work/state")
      if [ "$definition" != "$wanted" ]; then say "$service: ECS went back to ${definition##*/} by itself"; return 1; fi
      if [ "$state" = FAILED ]; then say "$service: ${wanted##*/} does not come up"; return 1; fi
      if [ "$state" != COMPLETED ]; then waiting="$waiting $service"; fi
    done <"$1"
    if [ -z "$waiting" ]; then return 0; fi # without the 0, a trap would return with what sprang it
    if [ "$waiting" != "$said" ]; then say "waiting for$waiting"; said=$waiting; fi
    sleep "${POLL_SECONDS:-5}"
  done
  say "after half an hour:$waiting"
  return 1
}

go_back() { # FILE: the revisions of then, with the settings of then; services that have them already are left alone
  local service definition
  running >"$work/now"
  while IFS=$'\t' read -r service definition; do
    if ! grep -qxF "$service"$'\t'"$definition" "$work/now"; then
      aws ecs update-service --cluster "$name" --service "$service" --task-definition "$definition" >/dev/null
    fi
  done <"$1"
  settled "$1"
}

smoke() { # from outside, by the real name and certificate, as a client comes in
  if [ -z "${DEPLOY_URL:-}" ]; then
    say "DEPLOY_URL is not set: not tried from outside"
    return 0
  fi
  curl --fail --silent --show-error --max-time 10 --retry 5 --retry-delay 2 --retry-all-errors \
    --output /dev/null "$DEPLOY_URL/health/ready"
}

noted() { # release or release-before: what deploy.sh has written there
  aws ssm get-parameter --name "/$name/$1" --query Parameter.Value --output text
}

note_release() { # FILE: this runs now, and for rollback.sh what ran before
  local was
  was=$(noted release)
  aws ssm put-parameter --name "/$name/release-before" --value "$was" --overwrite >/dev/null
  aws ssm put-parameter --name "/$name/release" --value "$(cat "$1")" --overwrite >/dev/null
}
