# shellcheck shell=bash
# shellcheck disable=SC2154 # namespace and work are set by those who source this
# What deploy.sh and rollback.sh share. Sourced, in the project's folder.

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
die() { say "$@"; exit 1; }

# What a release switches, in this order.
# shellcheck disable=SC2034 # used by those who source this as well
deployments="web worker beat"

silence() { # start or end: what a deploy causes rings nobody meanwhile
  if [ -e ops/scripts/silence.sh ]; then ops/scripts/silence.sh "$1" || say "alarms could not be silenced: $1"; fi
}

in_namespace() { kubectl --namespace "$namespace" "$@"; }

apply() { # by the server, which keeps what others (autoscalers, operators) have written into the same objects
  kubectl apply --server-side --field-manager=deploy --force-conflicts --filename "$work/all.yaml" "$@"
}

wait_for() { # WHAT OPTIONS...
  in_namespace wait "$@" || { in_namespace get "$1" >&2 || true; die "$1 is not ready: docs/kubernetes.md, When it does not come up"; }
}

job_done() { # NAME: true when it is complete, false as soon as it has failed
  local state
  for _ in $(seq 900); do
    state=$(in_namespace get "job/$1" --output 'jsonpath={.status.conditions[?(@.status=="True")].type}')
    case " $state " in
    *" Complete "*) return 0 ;;
    *" Failed "*) return 1 ;;
    esac
    sleep "${POLL_SECONDS:-2}"
  done
  return 1
}

revision() { # DEPLOYMENT: its number, or nothing where there is none yet
  in_namespace get "deployment/$1" --ignore-not-found \
    --output 'jsonpath={.metadata.annotations.deployment\.kubernetes\.io/revision}'
}

remember() { # FILE: which revisions run now
  local deployment number
  for deployment in $deployments; do
    number=$(revision "$deployment")
    printf '%s %s\n' "$deployment" "$number"
  done >"$1"
}

go_back() { # FILE: the revisions of then, with the settings of then; those that have not changed are left alone
  local deployment number failed=
  while read -r deployment number; do
    if [ -z "$number" ]; then continue; fi # the first deploy: there is nothing to go back to
    if [ "$(revision "$deployment")" != "$number" ]; then
      in_namespace rollout undo "deployment/$deployment" "--to-revision=$number" || failed=1
    fi
  done <"$1"
  while read -r deployment number; do
    [ -z "$number" ] || in_namespace rollout status "deployment/$deployment" --timeout=360s || failed=1
  done <"$1"
  [ -z "$failed" ]
}

smoke() { # from outside, by the real name and certificate, as a client comes in
  if [ -z "${DEPLOY_URL:-}" ]; then
    say "DEPLOY_URL is not set: not tried from outside"
    return
  fi
  curl --fail --silent --show-error --max-time 10 --retry 5 --retry-delay 2 --retry-all-errors \
    --output /dev/null "$DEPLOY_URL/health/ready"
}

note_release() { # IMAGE BACKUP_IMAGE: what runs and what ran before it, for rollback.sh
  local was
  was=$(in_namespace get configmap release --ignore-not-found --output 'jsonpath={.data.image} {.data.backup}')
  in_namespace create configmap release --dry-run=client --output yaml \
    "--from-literal=image=$1" "--from-literal=backup=$2" \
    "--from-literal=previous=${was%% *}" "--from-literal=previous-backup=${was##* }" |
    kubectl apply --server-side --field-manager=deploy --force-conflicts --filename - >/dev/null
}
