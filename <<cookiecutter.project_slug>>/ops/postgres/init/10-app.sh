#!/bin/sh
# Runs once, when the volume is empty: the application's role and database.
set -eu
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
  --set user="$DATABASE_USER" --set name="$DATABASE_NAME" --set password="$DATABASE_PASSWORD" \
  --file /docker-entrypoint-initdb.d/sql/app.sql
