#!/usr/bin/env bash
# daily.sh HH:MM COMMAND...: run the command every day at that time (UTC), for as long as the container lives.
# A failed run is logged and shows as unhealthy until one succeeds; the next day comes either way.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: daily.sh HH:MM COMMAND..." >&2; exit 2; }
at=$1
shift
state=${DAILY_STATE:-/tmp/daily}
mkdir -p "$state"
log() { # EVENT COMMAND; the next run is said with each
  printf '{"timestamp":"%s","event":"daily.%s","command":"%s","next":"%s"}\n' \
    "$(date -u +%FT%TZ)" "$1" "$2" "$(date -u -d "@$(next)" +%FT%TZ)"
}
trap 'exit 0' TERM INT

next() { # seconds since the epoch of the next HH:MM
  local today
  today=$(date -u -d "today $at" +%s)
  if [ "$today" -gt "$(date +%s)" ]; then echo "$today"; else date -u -d "tomorrow $at" +%s; fi
}

due=$(next)
log waiting "$*"
while :; do
  touch "$state/alive"
  # In short steps: a suspended machine or a changed clock would make one long sleep miss its time.
  sleep 30 &
  wait $! || true
  if [ "$(date +%s)" -ge "$due" ]; then
    if "$@"; then
      rm -f "$state/failed"
      log succeeded "$*"
    else
      touch "$state/failed"
      log failed "$*"
    fi
    due=$(next)
  fi
done
