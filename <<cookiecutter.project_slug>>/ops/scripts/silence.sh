#!/usr/bin/env bash
# silence.sh start [MINUTES] | end: keep quiet what a deploy causes for a moment, the alarms labelled `deploy: expected`. It ends by
# itself after 30 minutes, so that a deploy that was killed does not leave the service unwatched.
# AMTOOL: how to call amtool where Alertmanager does not run in compose.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
say() { printf 'silence: %s\n' "$*" >&2; }
if [ -e ops/scripts/release.sh ]; then
  # shellcheck source=/dev/null # where the service does not run by Compose there is none
  . ops/scripts/release.sh
elif [ -z "${AMTOOL:-}" ]; then
  say "AMTOOL is not set: alarms ring as ever"
  exit
fi

amtool() {
  if [ -n "${AMTOOL:-}" ]; then
    # shellcheck disable=SC2086 # a command with its options
    $AMTOOL "$@"
  else
    compose exec -T alertmanager amtool --alertmanager.url http://127.0.0.1:9093 "$@"
  fi
}

case ${1:-} in
start)
  amtool silence add 'deploy=expected' --author "$(basename "$0")" --comment deploy --duration "${2:-30}m" >/dev/null
  say "alarms that a deploy causes are silent"
  ;;
end)
  amtool silence query --quiet 'deploy=expected' --created-by "$(basename "$0")" | xargs -r -n 1 |
    while read -r id; do amtool silence expire "$id" </dev/null; done
  say "all alarms ring again"
  ;;
*)
  say "usage: silence.sh start [MINUTES] | end"
  exit 2
  ;;
esac
