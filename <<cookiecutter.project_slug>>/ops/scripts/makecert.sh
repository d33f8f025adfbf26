#!/usr/bin/env bash
# makecert.sh [NAME...]: a certificate for trying stage and prod on one machine; browsers will not trust it.
# Your own go to the same two files (docs/front-door.md); this script never overwrites them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=${TLS_DIR:-ops/nginx/certs}
[ ! -e "$folder/privkey.pem" ] || { echo "makecert.sh: $folder/privkey.pem is there already; left as it is"; exit; }
[ $# -gt 0 ] || set -- localhost
names=$(printf ',DNS:%s' "$@")
mkdir -p "$folder"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 30 -subj "/CN=$1" \
  -addext "subjectAltName=${names:1},IP:127.0.0.1" \
  -keyout "$folder/privkey.pem" -out "$folder/fullchain.pem" 2>/dev/null
# nginx runs in its container as a user that owns nothing here. It protects nothing but this machine's own traffic.
chmod 644 "$folder/privkey.pem"
echo "makecert.sh: wrote $folder/fullchain.pem and privkey.pem for $*, valid for 30 days"
[ -n "${TLS_DIR-}" ] || echo "makecert.sh: to serve it, set TLS_DIR=./$folder in .env"
