-- The application's role owns its database and is nothing else: no superuser, no replication, no other databases.
-- CREATEDB is for the restore, which loads a backup into a new database, looks at it, and only then swaps the two.
CREATE ROLE :"user" LOGIN PASSWORD :'password' NOSUPERUSER CREATEDB NOCREATEROLE NOREPLICATION;
GRANT pg_read_all_stats TO :"user"; -- sizes and counters for the metrics; no data

-- Extensions that only a superuser may create. In template1 as well, so that a restored database has them.
\connect template1
CREATE EXTENSION vector;

\connect postgres
CREATE EXTENSION pg_stat_statements;
CREATE DATABASE :"name" OWNER :"user" TEMPLATE template1;
REVOKE CONNECT, TEMPORARY ON DATABASE :"name" FROM PUBLIC;

-- From here on the superuser comes in from inside the container only: docker compose exec postgres psql -U postgres
ALTER ROLE CURRENT_USER PASSWORD NULL;
