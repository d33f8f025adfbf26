-- Run once by RDS' master, which is no superuser either: the role of the application, its database and the extension.
-- Safe to repeat; the password becomes the one of the secret again.
\getenv password APP_PASSWORD
SELECT 'CREATE ROLE app LOGIN CREATEDB' -- a restore loads a backup beside the live database
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app') \gexec
SELECT format('ALTER ROLE app PASSWORD %L', :'password') \gexec
GRANT app TO CURRENT_USER; -- else not even the master may give it a database
SELECT 'CREATE DATABASE app OWNER app'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'app') \gexec
GRANT pg_read_all_stats TO app;
\connect app
CREATE EXTENSION IF NOT EXISTS vector;
