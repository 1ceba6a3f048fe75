#!/bin/sh
# Run once, by Patroni on the first host of a new cluster: the application's role is no superuser, and owns its database alone.
# It may create roles, because the first migration creates two (docs/security.md).
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --set=password="$PATINA_PASSWORD" "$1" <<'SQL'
CREATE ROLE patina LOGIN CREATEROLE NOSUPERUSER NOCREATEDB NOBYPASSRLS PASSWORD :'password';
CREATE DATABASE patina OWNER patina;
SQL
