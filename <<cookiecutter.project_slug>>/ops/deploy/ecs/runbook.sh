# shellcheck shell=bash
# Sourced before the commands of docs/runbook are typed: `export ENV=production; . ops/deploy/ecs/runbook.sh`.
# The pages speak of `docker compose`, as the same stack on one machine does. Here that is a function: it does the same in the
# cluster of $ENV, and shows the command that it runs. What has no counterpart it refuses, and says where to look.

_known=$(python3 ops/deploy/ecs/render.py "${ENV:-production}" variables) || return 1
IFS=$'\t' read -r CLUSTER AWS_REGION _ <<<"$_known"
export CLUSTER AWS_REGION AWS_DEFAULT_REGION="$AWS_REGION" AWS_PAGER=''

_show() { # COMMAND...: say it, and run it
  { printf '+'; printf ' %q' "$@"; echo; } >&2
  "$@"
}
_refuse() {
  echo "runbook: $*" >&2
  return 2
}

_what() { # SERVICE: what bears its name in the cluster
  case $1 in
  api) echo web ;;
  worker | beat | backup) echo "$1" ;;
  postgres) _refuse "RDS is postgres here: aws rds describe-db-instances --db-instance-identifier $CLUSTER" ;;
  broker | cache) _refuse "ElastiCache is $1 here: aws elasticache describe-replication-groups" ;;
  nginx) _refuse "the load balancer is nginx here: aws elbv2 describe-target-health; its alarms: docs/ecs.md" ;;
  certificates) _refuse "Certificate Manager renews it by itself: aws acm list-certificates" ;;
  wal | restore) _refuse "RDS keeps the log and goes back to a second: docs/ecs.md, Backups" ;;
  migrate) _refuse "each deploy migrates: make deploy" ;;
  init-storage) _refuse "CloudFormation has the bucket: make provision" ;;
  *) _refuse "$1 does not run in AWS: docs/ecs.md, The runbook here" ;;
  esac
}

_logs() { # OPTIONS SERVICE...
  local since=1h lines='' service target status=0
  while [ $# -gt 0 ]; do
    case $1 in
    --since) since=$2 && shift ;;
    --tail) lines=$2 && shift ;;
    -*) ;;
    *) break ;;
    esac
    shift
  done
  for service in "$@"; do
    if [ "$service" = postgres ]; then
      _show aws logs tail "/aws/rds/instance/$CLUSTER/postgresql" --since "$since" --format short
    elif target=$(_what "$service"); then
      _show aws logs tail "/ecs/$CLUSTER" --since "$since" --log-stream-name-prefix "$target" --format short
    else
      false
    fi | if [ -n "$lines" ]; then tail -n "$lines"; else cat; fi
    [ "${PIPESTATUS[0]}" = 0 ] || status=2
  done
  return "$status"
}

_once() { # SERVICE COMMAND...: with its image, its settings and its role, in a task of its own; a minute until it answers
  local service=$1
  shift
  _show env SERVICE="$service" ops/deploy/ecs/once.sh "${ENV:-production}" "$@"
}

# What redis-cli would do, by the library that is in the image.
_redis='import os, sys, redis
found = redis.from_url(os.environ[sys.argv[1] + "_URL"], decode_responses=True).execute_command(*sys.argv[2:])
print(*(f"{k}:{v}" for k, v in found.items()) if isinstance(found, dict) else [found], sep="\n")'

_exec() { # SERVICE COMMAND...
  local service=$1 target kept=()
  shift
  case "$service $1" in
  postgres\ psql) # as the application's role, on its database
    shift
    while [ $# -gt 0 ]; do
      case $1 in -U | -d) shift ;; *) kept+=("$1") ;; esac
      shift
    done
    # shellcheck disable=SC2016 # for the shell over there
    _once backup sh -c 'exec psql "$DATABASE_URL" "$@"' sh "${kept[@]}"
    ;;
  broker\ redis-cli) _once web python -c "$_redis" BROKER "${@:2}" ;;
  cache\ redis-cli) _once web python -c "$_redis" CACHE "${@:2}" ;;
  *)
    case "$*" in *127.0.0.1*) _refuse "a task of its own serves nothing to ask: docs/ecs.md, The runbook here"; return ;; esac
    target=$(_what "$service") || return
    _once "$target" "$@"
    ;;
  esac
}

_scalable() { # SERVICE OPTIONS...
  _show aws application-autoscaling register-scalable-target --service-namespace ecs --resource-id "service/$CLUSTER/$1" \
    --scalable-dimension ecs:service:DesiredCount "${@:2}" >/dev/null
}

_number() { # SERVICE NUMBER, which the autoscaling leaves alone at 0
  local resting=false
  [ "$2" != 0 ] || resting=true
  case $1 in
  web | worker) _scalable "$1" --suspended-state "DynamicScalingInSuspended=$resting,DynamicScalingOutSuspended=$resting" || return ;;
  esac
  _show aws ecs update-service --cluster "$CLUSTER" --service "$1" --desired-count "$2" >/dev/null
}

_each() { # DOES SERVICE...
  local does=$1 service target
  shift
  for service in "$@"; do
    target=$(_what "$service") || return
    case $does in
    stop) _number "$target" 0 ;;
    start) _number "$target" 1 ;; # the autoscaling goes on from there
    renew) _show aws ecs update-service --cluster "$CLUSTER" --service "$target" --force-new-deployment >/dev/null ;;
    esac || return
  done
}

_up() { # OPTIONS SERVICE...: started anew, so that they read their secrets
  local scale='' target
  while [ $# -gt 0 ]; do
    case $1 in
    --scale) scale=$2 && shift ;;
    -*) ;;
    *) break ;;
    esac
    shift
  done
  if [ -n "$scale" ]; then
    target=$(_what "${scale%%=*}") && _number "$target" "${scale#*=}" &&
      echo "runbook: the autoscaling counts again by itself; for good: environments/${ENV:-production}.toml" >&2
    return
  fi
  if [ $# = 0 ]; then _ps; else _each renew "$@"; fi # what is missing, ECS starts by itself
}

_ps() {
  _show aws ecs describe-services --cluster "$CLUSTER" --services web worker beat backup --output table \
    --query 'services[].[serviceName, runningCount, desiredCount, taskDefinition, events[0].message]'
}

docker() { # compose VERB…: as the pages write it
  [ "${1-}" = compose ] || { _refuse "no engine here; of the tasks: aws ecs list-tasks --cluster $CLUSTER"; return; }
  shift
  local verb=$1
  shift
  case $verb in
  ps) _ps ;;
  logs) _logs "$@" ;;
  exec) while [ "${1#-}" != "$1" ]; do case $1 in --user) shift 2 ;; *) shift ;; esac; done; _exec "$@" ;;
  run) while [ "${1#-}" != "$1" ]; do shift; done
    case "$*" in *'restore base'* | *'backup base'* | *' wal '*) _what wal; return ;; *' redis'*) _what broker; return ;; esac
    _exec "$@" ;;
  up | restart) _up "$@" ;;
  stop | start) _each "$verb" "$@" ;;
  stats) _refuse "processor and memory: CloudWatch, Container Insights, cluster $CLUSTER" ;;
  *) _refuse "docker compose $verb has no counterpart here: docs/ecs.md" ;;
  esac
}

HEALTH_TOKEN=$(aws secretsmanager get-secret-value --secret-id "$CLUSTER/app" --query SecretString --output text |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["HEALTH_TOKEN"])')
DOMAIN=$(aws cloudformation describe-stacks --stack-name "$CLUSTER" --output text \
  --query "Stacks[0].Outputs[?OutputKey=='Domain'].OutputValue")
export HEALTH_TOKEN DOMAIN URL="https://$DOMAIN" DEPLOY_URL="https://$DOMAIN"
