#!/bin/sh
# Alertmanager reads no environment variables: the address comes in as a file, and the route follows it.
set -eu
cp /etc/alertmanager/alertmanager.yml /tmp/alertmanager.yml
if [ -n "${ALERT_SLACK_URL:-}" ]; then
  (umask 077 && printf '%s' "$ALERT_SLACK_URL" >/tmp/slack_url)
  sed -i 's/^  receiver: nobody$/  receiver: slack/' /tmp/alertmanager.yml
fi
exec /bin/alertmanager --config.file=/tmp/alertmanager.yml --storage.path=/alertmanager
