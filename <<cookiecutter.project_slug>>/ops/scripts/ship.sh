#!/usr/bin/env bash
# ship.sh: from a workflow, bring the files of this version and the names of its images to the server, deploy there, and
# ask for it from outside. What the server lets the key do, and for which environment: door.sh.
# Reads DEPLOY_TARGET (user@host), DEPLOY_PORT (22), DEPLOY_SSH_KEY, DEPLOY_KNOWN_HOSTS, DEPLOY_URL, APP_IMAGE, BACKUP_IMAGE.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
for name in DEPLOY_TARGET DEPLOY_SSH_KEY DEPLOY_KNOWN_HOSTS DEPLOY_URL APP_IMAGE BACKUP_IMAGE; do
  [ -n "${!name:-}" ] || { echo "ship.sh: $name is not set: docs/deploy.md" >&2; exit 1; }
done

keys=$(mktemp -d)
trap 'rm -rf "$keys"' EXIT
(umask 077 && printf '%s\n' "$DEPLOY_SSH_KEY" >"$keys/id" && printf '%s\n' "$DEPLOY_KNOWN_HOSTS" >"$keys/known_hosts")
door() { # WORDS; the server's host key must be the one we know
  ssh -F none -i "$keys/id" -p "${DEPLOY_PORT:-22}" -o IdentitiesOnly=yes -o BatchMode=yes -o ConnectTimeout=15 \
    -o ServerAliveInterval=15 -o StrictHostKeyChecking=yes -o UserKnownHostsFile="$keys/known_hosts" \
    -o GlobalKnownHostsFile=none "$DEPLOY_TARGET" "$@"
}

tar --create --gzip --exclude ops/nginx/certs --exclude '*/__pycache__' --exclude '*/maintenance.on' --exclude '*/.well-known' \
  compose.yaml Makefile ops | door files
door deploy "$APP_IMAGE" "$BACKUP_IMAGE"

# From here, over the real name and certificate.
if ! ops/scripts/wait-for.sh -t 60 "$DEPLOY_URL/health/ready"; then
  echo "ship.sh: $DEPLOY_URL does not answer from here; going back" >&2
  door rollback
  exit 1
fi
