#!/bin/sh
# The role of the physical backups. Runs after 10-app.sh when the volume is empty, and later by hand as often as one likes:
# docker compose exec postgres sh /docker-entrypoint-initdb.d/30-replication.sh
set -eu
[ -n "${REPLICATION_PASSWORD:-}" ] || exit 0
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
  --set user="$REPLICATION_USER" --set password="$REPLICATION_PASSWORD" \
  --file /docker-entrypoint-initdb.d/sql/replication.sql
# "all" in pg_hba.conf does not mean replication. From the container's own network, with a password, and this role alone.
line="host replication \"$REPLICATION_USER\" samenet scram-sha-256"
grep -qxF "$line" "$PGDATA/pg_hba.conf" || echo "$line" >>"$PGDATA/pg_hba.conf"
psql --no-psqlrc --quiet --username "${POSTGRES_USER:-postgres}" --dbname postgres --command 'SELECT pg_reload_conf()' >/dev/null
