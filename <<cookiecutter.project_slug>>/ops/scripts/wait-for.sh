#!/usr/bin/env bash
# wait-for.sh [-t SECONDS] HOST:PORT|URL [-- COMMAND...]: wait until a port accepts, or a URL answers 2xx, then run COMMAND.
set -euo pipefail
usage() { echo "usage: wait-for.sh [-t SECONDS] HOST:PORT|URL [-- COMMAND...]" >&2; exit 2; }
seconds=60
if [ "${1-}" = -t ]; then
  [ $# -ge 3 ] || usage
  seconds=$2
  shift 2
fi
[ $# -ge 1 ] || usage
target=$1
shift
if [ "${1-}" = -- ]; then shift; elif [ $# -gt 0 ]; then usage; fi

# shellcheck disable=SC2016 # $1 and $2 are the arguments of the inner shell
answers() {
  case $target in
  http://* | https://*) curl --fail --silent --show-error --max-time 5 --output /dev/null ${CURL_OPTIONS:+$CURL_OPTIONS} "$target" ;;
  *:*) timeout 5 bash -c ': >"/dev/tcp/$1/$2"' _ "${target%:*}" "${target##*:}" ;;
  *) usage ;;
  esac
}

until error=$(answers 2>&1); do
  if [ "$SECONDS" -ge "$seconds" ]; then
    echo "wait-for.sh: $target did not answer within $seconds s${error:+: ${error##*$'\n'}}" >&2
    exit 1
  fi
  sleep 0.5
done
[ $# -eq 0 ] || exec "$@"
