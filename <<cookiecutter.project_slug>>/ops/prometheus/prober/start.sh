#!/bin/sh
# The prober reads no environment variables.
set -eu
sed "s/domain\\.invalid/${DOMAIN:?}/" /etc/prober/prober.yml >/tmp/prober.yml
exec /bin/blackbox_exporter --config.file=/tmp/prober.yml
