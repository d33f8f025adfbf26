#!/usr/bin/env bash
# announce.sh TEXT...: say something in Slack. Without SLACK_WEBHOOK_URL nothing is said, and that is no failure.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: announce.sh TEXT..." >&2; exit 2; }
[ -n "${SLACK_WEBHOOK_URL:-}" ] || { echo "announce.sh: no SLACK_WEBHOOK_URL; not said: $*"; exit; }
text=$*
text=${text//\\/\\\\}
text=${text//\"/\\\"}
text=${text//$'\n'/\\n}
# The address is a secret: not among the arguments, where every process on the machine sees it.
curl --fail --silent --show-error --max-time 10 --retry 3 --output /dev/null --header 'Content-Type: application/json' \
  --data-raw "{\"text\": \"$text\"}" --config - <<<"url = \"$SLACK_WEBHOOK_URL\""
