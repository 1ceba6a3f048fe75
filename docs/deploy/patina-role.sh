#!/bin/sh
# Run once, by the container of PostgreSQL on an empty volume: the application's role is no superuser, and owns its
# database alone. It may create roles, because the first migration makes two of its own (docs/security.md).
set -eu
psql --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres --set=password="$PATINA_PASSWORD" <<'SQL'
CREATE ROLE patina LOGIN CREATEROLE NOSUPERUSER NOCREATEDB NOBYPASSRLS PASSWORD :'password';
CREATE DATABASE patina OWNER patina;
SQL
