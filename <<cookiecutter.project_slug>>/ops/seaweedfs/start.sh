#!/bin/sh
# SeaweedFS in one process, and beside it what applies the lifecycle of its buckets, which it does not do by itself.
#   start.sh serve FLAG…   both; further flags of `weed server`
#   start.sh lifecycle     applies the rules once, now
set -eu
umask 077
source=$(dirname "$0")
folder=${SEAWEEDFS_FOLDER:-/tmp} # what others must not read: the accounts
mode=$1 && shift

# They go into JSON and into sed: what means something there is refused, before the store is up with half of it.
for name in STORAGE_ACCESS_KEY STORAGE_SECRET_KEY STORAGE_OPERATOR_SECRET_KEY STORAGE_BUCKET BACKUP_S3_BUCKET; do
  value=''
  eval "value=\${$name:-}"
  case $value in
    '') echo "seaweedfs: $name is missing: run \`make setup\`, or take it over from .env.example" >&2 && exit 1 ;;
    *[!A-Za-z0-9._+/=-]*) echo "seaweedfs: $name may hold letters, digits and . _ + / = - only" >&2 && exit 1 ;;
  esac
done

# Without it whoever reaches the gateway's port for gRPC makes themselves an account.
WEED_JWT_FILER_SIGNING_KEY=$(printf 'gateway %s' "$STORAGE_OPERATOR_SECRET_KEY" | sha256sum | cut -d ' ' -f 1)
export WEED_JWT_FILER_SIGNING_KEY

policy() { # NAME: the file as a string within JSON
  sed "s|\${STORAGE_BUCKET}|$STORAGE_BUCKET|g; s|\${BACKUP_S3_BUCKET}|$BACKUP_S3_BUCKET|g" "$source/$1.json" | tr -d '\n' | sed 's/"/\\"/g'
}
account() { # NAME KEY SECRET: may do what NAME.json says, and nothing else
  printf '{"name": "%s", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "policyNames": ["%s"]}' "$1" "$2" "$3" "$1"
}

serve() {
  {
    printf '{"identities": ['
    account app "$STORAGE_ACCESS_KEY" "$STORAGE_SECRET_KEY"
    printf ', '
    account operator operator "$STORAGE_OPERATOR_SECRET_KEY"
    printf '], "policies": [{"name": "app", "content": "%s"}, ' "$(policy app)"
    printf '{"name": "operator", "content": "%s"}]}\n' "$(policy operator)"
  } >"$folder/accounts.json"
  while :; do if lifecycle; then sleep 86400; else sleep 10; fi; done &
  # All parts but the gateway ask nobody who they are: they listen on the loopback alone. No telemetry, no further doors.
  exec weed -logtostderr=true server -dir="${SEAWEEDFS_DATA:-/data}" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
    -master.telemetry=false -master.volumeSizeLimitMB=1024 -volume.max=0 -volume.preStopSeconds=1 \
    -filer -filer.localSocket="$folder/filer.sock" \
    -s3 -s3.ip.bind="${SEAWEEDFS_LISTEN:-0.0.0.0}" -s3.config="$folder/accounts.json" -s3.localSocket="$folder/s3.sock" \
    -s3.iam=false -s3.port.iceberg=0 -s3.port.lance=0 -s3.autoCreateBucket=false -s3.allowDeleteBucketNotEmpty=false \
    -metricsIp="${SEAWEEDFS_LISTEN:-0.0.0.0}" -metricsPort="${SEAWEEDFS_METRICS_PORT:-9327}" "$@"
}

# In the same container, for the other parts listen on its loopback alone. It would wait for a master for ever.
lifecycle() {
  printf 's3.lifecycle.run-shard -shards 0-15 -s3 %s -events 0 -runtime %s\n' "${SEAWEEDFS_GATEWAY:-127.0.0.1:18333}" "${SEAWEEDFS_RUNTIME:-10m}" |
    timeout 1800 weed -logdir="$folder" shell -master="${SEAWEEDFS_MASTER:-127.0.0.1:9333}" -filer="${SEAWEEDFS_FILER:-127.0.0.1:8888}" || return 1
  touch "$folder/lifecycle" # the health check looks how old it is
}

case $mode in
  serve) serve "$@" ;;
  lifecycle) lifecycle ;;
  *) echo "seaweedfs: serve or lifecycle, not $mode" >&2 && exit 2 ;;
esac
