-- Copies the cluster and receives its log: REPLICATION and nothing else. Whoever holds its password can read everything.
SELECT format('CREATE ROLE %I', :'user') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'user') \gexec
ALTER ROLE :"user" LOGIN REPLICATION PASSWORD :'password' NOSUPERUSER NOCREATEDB NOCREATEROLE CONNECTION LIMIT 10;
GRANT EXECUTE ON FUNCTION pg_switch_wal() TO :"user"; -- `wal --flush`: have everything stored that was written so far
