#!/bin/sh
# The role of whoever watches the database. Runs after 10-app.sh when the volume is empty, and later by hand as often as one likes:
# docker compose exec postgres sh /docker-entrypoint-initdb.d/20-monitor.sh
set -eu
[ -n "${MONITOR_PASSWORD:-}" ] || exit 0
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
  --set name="$DATABASE_NAME" --set password="$MONITOR_PASSWORD" \
  --file /docker-entrypoint-initdb.d/sql/monitor.sql
