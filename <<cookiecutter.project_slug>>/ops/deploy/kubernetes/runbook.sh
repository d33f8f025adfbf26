# shellcheck shell=bash
# Sourced before the commands of docs/runbook are typed: `export ENV=production; . ops/deploy/kubernetes/runbook.sh`.
# The pages speak of `docker compose`, as the same stack on one machine does. Here that is a function: it does the same in the
# namespace of $ENV, and shows the kubectl command that it runs. What has no counterpart it refuses, and says where to look.

_overlay=ops/deploy/kubernetes/overlays/${ENV:-production}/kustomization.yaml
if [ ! -e "$_overlay" ]; then
  echo "runbook: no overlay ${ENV:-production}: ENV is staging or production, and the folder that of the project" >&2
  return 1
fi
_namespace=$(sed -n 's/^namespace: //p' "$_overlay")

_show() { # COMMAND...: say it, and run it
  { printf '+'; printf ' %q' "$@"; echo; } >&2
  "$@"
}
_kubectl() { _show kubectl --namespace "$_namespace" "$@"; }
_refuse() {
  echo "runbook: $*" >&2
  return 2
}

_what() { # SERVICE: what bears its name in the cluster
  case $1 in
  api) echo deployment/web ;;
  worker | beat) echo "deployment/$1" ;;
  broker | cache) echo "statefulset/$1" ;;
  postgres) kubectl --namespace "$_namespace" get pod --selector cnpg.io/cluster=postgres,cnpg.io/instanceRole=primary --output name ;;
  backup) echo deployment/backup-watch ;;
  migrate | init-storage) echo "job/$1" ;;
  postgres-exporter | cache-exporter | broker-exporter) echo "deployment/$1" ;;
  nginx | prober) _refuse "the Gateway is $1 here: kubectl --namespace gateway get pods" ;;
  certificates) _refuse "cert-manager has the certificate: kubectl --namespace gateway describe certificate" ;;
  wal | restore) _refuse "CloudNativePG keeps the log and goes back to a second: docs/kubernetes.md, Back to a second" ;;
  *) _refuse "$1 belongs to the cluster: kubectl get pods --all-namespaces | grep $1" ;;
  esac
}

_logs() { # OPTIONS SERVICE...: of every pod of each
  local options=() service target status=0
  while [ $# -gt 0 ]; do
    case $1 in
    --since | --tail) options+=("$1=$2") && shift ;;
    --no-log-prefix | --follow) [ "$1" = --no-log-prefix ] || options+=("$1") ;;
    *) break ;;
    esac
    shift
  done
  for service in "$@"; do
    case $service in
    backup) _kubectl logs --selector component=backup --prefix "${options[@]}" ;; # those of the jobs, too
    postgres) _kubectl logs --selector cnpg.io/cluster=postgres --container postgres "${options[@]}" ;;
    *) target=$(_what "$service") && _kubectl logs "$target" --all-pods "${options[@]}" ;;
    esac || status=$?
  done
  return "$status"
}

_exec() { # SERVICE COMMAND...
  local target container=()
  target=$(_what "$1") || return
  case $1 in postgres) container=(--container postgres) ;; esac
  shift
  _kubectl exec --stdin "$target" "${container[@]}" -- "$@"
}

_run() { # SERVICE COMMAND...: a job of its own, from what the timetable makes its jobs
  local from=cronjob/backup-dump name
  [ "$1" = backup ] || { _what "$1" >/dev/null && _refuse "not here: docs/kubernetes.md"; return; }
  shift
  case "$*" in *'restore base'* | *'wal '*) _what wal; return ;; esac
  name=by-hand-$(date +%s)-$RANDOM
  _kubectl create job "$name" --from="$from" --dry-run=client --output json |
    python3 -c 'import json, sys; job = json.load(sys.stdin); job["spec"]["backoffLimit"] = 0
job["spec"]["template"]["spec"]["containers"][0]["command"] = sys.argv[1:]; json.dump(job, sys.stdout)' "$@" |
    _kubectl apply --filename - >&2
  _kubectl wait "job/$name" --for=jsonpath='{.status.ready}'=1 --timeout=120s >&2 || true # it may be over already
  _kubectl logs "job/$name" --follow
  _kubectl wait "job/$name" --for=condition=Complete --timeout=10s >&2
}

_scale() { # SERVICE=NUMBER
  local target
  target=$(_what "${1%%=*}") || return
  _kubectl scale "$target" --replicas "${1#*=}"
  echo "runbook: the autoscaler counts again by itself; for good: overlays/$ENV" >&2
}

_still() { # SERVICE...: nothing of it runs until _again
  local service target
  for service in "$@"; do
    target=$(_what "$service") || return
    if [ "$service" = worker ]; then _kubectl annotate scaledobject worker autoscaling.keda.sh/paused-replicas=0 --overwrite; fi
    _kubectl scale "$target" --replicas 0
  done
}

_again() { # SERVICE...: as many as before; the autoscalers go on from there
  local service target
  for service in "$@"; do
    target=$(_what "$service") || return
    if [ "$service" = worker ]; then _kubectl annotate scaledobject worker autoscaling.keda.sh/paused-replicas-; fi
    _kubectl scale "$target" --replicas 1
  done
}

_up() { # OPTIONS SERVICE...: started anew, so that they read their settings
  local service target scale=''
  while [ $# -gt 0 ]; do
    case $1 in
    --scale) scale=$2 && shift ;;
    -*) ;;
    *) break ;;
    esac
    shift
  done
  if [ -n "$scale" ]; then _scale "$scale"; return; fi
  for service in "$@"; do
    if [ "$service" = postgres ]; then _kubectl annotate cluster postgres "kubectl.kubernetes.io/restartedAt=$(date -u +%FT%TZ)" --overwrite; continue; fi
    target=$(_what "$service") || return
    _kubectl rollout restart "$target"
  done
  [ $# -gt 0 ] || _kubectl get pods # what is missing, the cluster starts by itself
}

docker() { # compose VERB…: as the pages write it
  [ "${1-}" = compose ] || { _refuse "no engine here; of a pod: kubectl --namespace $_namespace describe pod NAME"; return; }
  shift
  local verb=$1
  shift
  case $verb in
  ps) _kubectl get pods ;;
  logs) _logs "$@" ;;
  exec) while [ "${1#-}" != "$1" ]; do case $1 in --user) shift 2 ;; *) shift ;; esac; done; _exec "$@" ;;
  run) while [ "${1#-}" != "$1" ]; do shift; done; _run "$@" ;;
  up | restart) _up "$@" ;;
  stop) _still "$@" ;;
  start) _again "$@" ;;
  stats) _kubectl top pods --containers ;;
  *) _refuse "docker compose $verb has no counterpart here: docs/kubernetes.md" ;;
  esac
}

HEALTH_TOKEN=$(kubectl --namespace "$_namespace" get secret app --output 'jsonpath={.data.HEALTH_TOKEN}' | base64 --decode)
DOMAIN=$(kubectl --namespace "$_namespace" get httproute web --output 'jsonpath={.spec.hostnames[0]}')
URL=https://$DOMAIN
export HEALTH_TOKEN DOMAIN URL
