#!/usr/bin/env bash
# ship.sh stage|prod: from a workflow, bring compose files and image names to the server and deploy there.
# Reads DEPLOY_TARGET (user@host), DEPLOY_PATH, DEPLOY_SSH_KEY, DEPLOY_KNOWN_HOSTS, DEPLOY_URL, APP_IMAGE, BACKUP_IMAGE.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
environment=${1:?usage: ship.sh stage|prod}
for name in DEPLOY_TARGET DEPLOY_PATH DEPLOY_SSH_KEY DEPLOY_KNOWN_HOSTS DEPLOY_URL APP_IMAGE BACKUP_IMAGE; do
  [ -n "${!name:-}" ] || { echo "ship.sh: $name is not set: docs/runbook/deploy.md" >&2; exit 1; }
done

keys=$(mktemp -d)
trap 'rm -rf "$keys"' EXIT
(umask 077 && printf '%s\n' "$DEPLOY_SSH_KEY" >"$keys/id" && printf '%s\n' "$DEPLOY_KNOWN_HOSTS" >"$keys/known_hosts")
server() { # COMMAND on the server; its host key must be the one we know
  ssh -i "$keys/id" -o IdentitiesOnly=yes -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=15 \
    -o StrictHostKeyChecking=yes -o UserKnownHostsFile="$keys/known_hosts" "$DEPLOY_TARGET" "$@"
}

path=$(printf %q "$DEPLOY_PATH")
tar --create --gzip --exclude ops/nginx/certs --exclude '*/__pycache__' compose.yaml Makefile ops |
  server "mkdir -p $path && tar --extract --gzip --directory $path"
server "make --directory $path deploy $(printf 'ENV=%q IMAGE=%q BACKUP_IMAGE=%q' "$environment" "$APP_IMAGE" "$BACKUP_IMAGE")"

# From here, over the real name and certificate.
if ! ops/scripts/wait-for.sh -t 60 "$DEPLOY_URL/health/ready"; then
  echo "ship.sh: the public address does not answer; going back" >&2
  server "make --directory $path rollback ENV=$environment"
  exit 1
fi
