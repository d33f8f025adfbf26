-- Reads counters, sizes and settings (pg_monitor), and not a single row of anybody's data.
SELECT 'CREATE ROLE monitor' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'monitor') \gexec
ALTER ROLE monitor LOGIN PASSWORD :'password' NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT 5;
ALTER ROLE monitor SET default_transaction_read_only = on;
ALTER ROLE monitor SET statement_timeout = '10s'; -- a watcher must not be what makes the database slow
GRANT pg_monitor TO monitor;
GRANT CONNECT ON DATABASE :"name" TO monitor;
