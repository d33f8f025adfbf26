#!/bin/sh
# Alertmanager reads no environment variables: this writes its configuration from them, secrets as files that only it can read.
# `start.sh render FOLDER` writes and ends; the test calls it so.
set -eu
umask 077
source=$(dirname "$0")
folder=/tmp
if [ "${1:-}" = render ]; then folder=$2; fi
mkdir -p "$folder/secrets"
config=$folder/alertmanager.yml

keep() { # PART VALUE...: the part between `#: PART` and its end stays when every value is there
  part=$1 && shift
  for value in "$@"; do [ -n "$value" ] || { parts="$parts $part" && return; }; done
}
put() { # WORD VALUE: as it is, whatever signs it has
  escaped=$(printf '%s' "$2" | sed "s/'/''/g; s/[&|\\\\]/\\\\&/g")
  sed -i "s|$1|$escaped|g" "$config" "$folder/message.tmpl"
}

parts='' # what is taken out
keep slack "${ALERT_SLACK_URL:-}"
keep email "${ALERT_EMAIL_TO:-}" "${MESSAGES_SMTP_HOST:-}" "${MESSAGES_FROM_ADDRESS:-}"
keep login "${MESSAGES_SMTP_USER:-}"
keep heartbeat "${ALERT_HEARTBEAT_URL:-}"
awk -v out="$parts " '
  /^ *#: end$/ { depth--; if (depth < hidden) hidden = 0; next }
  /^ *#: / { depth++; if (!hidden && index(out, " " $2 " ")) hidden = depth; next }
  !hidden' "$source/alertmanager.yml" >"$config"
cp "$source/message.tmpl" "$folder/message.tmpl"

printf '%s' "${ALERT_SLACK_URL:-}" >"$folder/secrets/slack"
printf '%s' "${MESSAGES_SMTP_PASSWORD:-}" >"$folder/secrets/smtp"
sed -i "s|/tmp/secrets|$folder/secrets|; s|/etc/alertmanager/\*\.tmpl|$folder/*.tmpl|" "$config"
put to@mail.invalid "${ALERT_EMAIL_TO:-}"
put from@mail.invalid "${MESSAGES_FROM_ADDRESS:-}"
put user@mail.invalid "${MESSAGES_SMTP_USER:-}"
put smtp.invalid:587 "${MESSAGES_SMTP_HOST:-}:${MESSAGES_SMTP_PORT:-587}" # port 465 is TLS from the first byte
put http://heartbeat.invalid/ "${ALERT_HEARTBEAT_URL:-}"
put http://runbook.invalid/ "${RUNBOOK_URL:-}"
if [ "${MESSAGES_SMTP_TLS:-starttls}" = none ]; then sed -i 's/require_tls: true/require_tls: false/' "$config"; fi

[ "${1:-}" = render ] || exec /bin/alertmanager --config.file="$config" --storage.path=/alertmanager
