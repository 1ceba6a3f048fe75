"""Database roles: two roles for this database alone, and what each may do to each table.

- The owner runs commands, workers and webhook endpoints, for all accounts.
- The pages' role (`pages_role()` in SQL) sees and changes rows of one account, and only what a page changes.
- The role of reads and exports (`read_role()`) sees rows of one account, and no secrets.

A role belongs to the whole PostgreSQL cluster, so its name contains the database's name, and the owner of another
database there cannot use it. Both functions return the names. A database created from a template uses the template's
roles, as long as its owner may assume them.

`apply` brings a database to this state, whatever it was before. It runs after every migration, so a new table needs
only a line in `PAGES` here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from psycopg import errors
from sqlalchemy import Connection, exc, text
from sqlalchemy.orm import Session

MAX_NAME_BYTES = 63
LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s'"


class Role(StrEnum):
    """A role that a transaction assumes; the value is the SQL function that returns its name."""

    PAGES = "pages_role"
    READS = "read_role"

    @property
    def prefix(self) -> str:
        """The part of the role's name before the database's name."""
        return {Role.PAGES: "patina_pages_", Role.READS: "patina_read_"}[self]


# The privileges of the pages' role, by column where it updates. A table without a line belongs to the owner alone.
PAGES: dict[str, tuple[str, ...]] = {
    "account": (
        "SELECT",
        "UPDATE (record_types, invoice_limit, bill_record_types, shown_credits, credit_record_types, hidden_statuses,"
        " shown_columns, visible_to_teams, opportunities_show_pinned_only, match_email_domain, setup_step)",
    ),
    "api_key": ("SELECT", "INSERT", "UPDATE (revoked_at)"),
    "audit_log": ("SELECT", "INSERT"),
    "api_usage": ("SELECT",),
    "contact_link": ("SELECT", "INSERT", "DELETE"),
    "copper_credential": ("SELECT (account_id, encrypted_payload, status, changed_at, records_synced_through)",),
    "copper_field": ("SELECT", "INSERT", "UPDATE (is_selected, definition_id, state)"),
    "copper_field_settings": (
        "SELECT",
        "INSERT",
        "UPDATE (state, record_types, version, checked_at, not_before, error)",
    ),
    "copper_field_value": (
        "SELECT",
        "INSERT",
        "UPDATE (is_stale, expected_values, not_before, attempts, error)",
        "DELETE",
    ),
    "copper_record": ("SELECT",),
    "copper_record_email": ("SELECT",),
    "copper_record_phone": ("SELECT",),
    "copper_relation": ("SELECT",),
    "copper_user": ("SELECT",),
    "projection_queue": ("INSERT",),
    "dropped_events": ("SELECT",),
    "event_latency": ("SELECT",),
    "heartbeat": ("SELECT",),
    "invoice_pin": ("SELECT", "INSERT", "DELETE"),
    "inbox": ("SELECT", "UPDATE (state, attempts, not_before, error, finished_at, body)"),
    "xero_invoice": ("SELECT", "UPDATE (online_url)"),
    "named_admin": ("SELECT", "INSERT", "UPDATE (name)", "DELETE"),
    "oauth_state": ("SELECT", "INSERT", "DELETE"),
    "record_balance": ("SELECT",),
    "record_invoice": ("SELECT",),
    "refused_endpoint": ("SELECT", "DELETE"),
    "sync_run": ("SELECT",),
    "unreadable_field": ("SELECT",),
    "browser_session": (
        "SELECT (account_id, id, user_id, user_name, role, method, surface, client, created_at, last_used_at,"
        " expires_at)",
        "UPDATE (teams, teams_fetched_at)",
        "DELETE",
    ),
    "xero_contact": ("SELECT",),
    "xero_contact_email": ("SELECT",),
    "xero_contact_phone": ("SELECT",),
    "xero_grant": ("SELECT (account_id, id, status)",),
    "xero_organisation": ("SELECT",),
}
READS = (
    "account",
    "contact_link",
    "copper_record",
    "copper_record_email",
    "copper_record_phone",
    "copper_relation",
    "copper_user",
    "invoice_pin",
    "xero_invoice",
    "record_balance",
    "record_invoice",
    "refused_endpoint",
    "sync_run",
    "xero_contact",
    "xero_contact_email",
    "xero_contact_phone",
    "xero_grant (account_id, id, status)",
    "xero_organisation",
)
# A function that runs with its owner's rights is only for the role that needs it.
DEFINERS: dict[str, Role] = {"account_of_key": Role.READS}

ACCOUNT = "NULLIF(current_setting('patina.account', true), '')::bigint"
HAS_NAME_FUNCTION = text("""
    SELECT EXISTS (SELECT FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND proname = :function AND pronargs = 0)
""")
IS_USABLE = text("""
    SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role AND pg_has_role(current_user, oid,
        CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END))
""")
EXISTS = text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role)")
TABLES = text("""
    SELECT c.relname AS name, c.relrowsecurity AS is_secured,
           EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'account_id'
                   AND NOT a.attisdropped) OR c.relname = 'account' AS has_account,
           (SELECT polroles::regrole[]::text[] FROM pg_policy WHERE polrelid = c.oid AND polname = 'own_account')
               AS policy_roles
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY c.relname
""")
# Functions of extensions are left alone.
FUNCTIONS = text("""
    SELECT p.proname AS name, p.oid::regprocedure::text AS signature, p.prosecdef AS is_definer FROM pg_proc p
    WHERE p.pronamespace = 'public'::regnamespace AND pg_has_role(current_user, p.proowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                      AND d.deptype = 'e')
""")
OWNS_DATABASE = text("""
    SELECT pg_has_role(current_user, d.datdba, 'USAGE') FROM pg_database d WHERE d.datname = current_database()
""")
OWNS_SCHEMA = text("SELECT pg_has_role(current_user, nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'public'")
WEAKNESSES = text("""
    SELECT current_database() AS database, u.rolname AS owner, u.rolsuper AS is_superuser, u.rolbypassrls AS bypasses,
           has_database_privilege('public', current_database(), 'CONNECT') AS is_open,
           has_schema_privilege('public', 'public', 'CREATE') AS allows_create
    FROM pg_roles u WHERE u.rolname = current_user
""")


class RolesError(Exception):
    """The database's user may not create the roles; the text has the statements for somebody who may."""


@dataclass(frozen=True)
class Table:
    """A table of the schema: whether it has rows of accounts, and the roles of its policy (None: no policy)."""

    name: str
    is_secured: bool
    has_account: bool
    policy_roles: list[str] | None


@dataclass(frozen=True)
class Weakness:
    """A way around the roles, and its remedy."""

    description: str
    remedy: str


def role_name(role: Role, database: str) -> str:
    """A role's name in a database: unique to the database, and no longer than PostgreSQL allows."""
    name = f"{role.prefix}{database}"
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(database.encode()).hexdigest()[:12]
    max_bytes = MAX_NAME_BYTES - len(digest) - 1
    return f"{name.encode()[:max_bytes].decode(errors='ignore')}_{digest}"


def apply(connection: Connection) -> None:
    """Give the roles their privileges in this database, and revoke everybody else's. Idempotent; in one transaction.

    Raises `RolesError` if the roles are missing and the database's user may not create them.
    """
    connection.exec_driver_sql(LOCK_TIMEOUT)
    tables = [Table(*row) for row in connection.execute(TABLES)]
    if not any(table.name == "account" for table in tables):
        return
    names = _ensure_roles(connection)
    _revoke_from_public(connection, names)
    for table in tables:
        _secure_table(connection, table, names)
    _secure_functions(connection, names)


def find_weaknesses(session: Session) -> list[Weakness]:
    """Ways around the roles, other than a superuser of the cluster."""
    row = session.execute(WEAKNESSES).one()
    database, owner = _quoted(row.database), _quoted(row.owner)
    remedy = f"ALTER ROLE {owner} NOSUPERUSER NOBYPASSRLS"
    checks = (
        (row.is_superuser, "the database's user is a superuser", f"Use an ordinary role: {remedy}."),
        (
            row.bypasses and not row.is_superuser,
            "the database's user bypasses row-level security",
            f"Run: {remedy}.",
        ),
        (
            row.is_open,
            "every user of the cluster may connect to this database",
            f"Run as the database's owner: REVOKE ALL ON DATABASE {database} FROM PUBLIC.",
        ),
        (
            row.allows_create,
            "every user of the database may create objects in the schema public",
            "Run as the schema's owner: REVOKE CREATE ON SCHEMA public FROM PUBLIC.",
        ),
    )
    return [Weakness(description, remedy) for is_present, description, remedy in checks if is_present]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _execute(connection: Connection, statement: str) -> None:
    """Execute a statement built here; a `%` in a name is not a parameter."""
    connection.exec_driver_sql(statement.replace("%", "%%"))


def _ensure_roles(connection: Connection) -> dict[Role, str]:
    """The names of both roles, which exist afterwards and which the database's user may assume."""
    database: str = connection.exec_driver_sql("SELECT current_database()").scalar_one()
    names = {role: _stored_name(connection, role) or role_name(role, database) for role in Role}
    missing = [name for name in names.values() if not _is_usable(connection, name)]
    try:
        for name in missing:
            _create(connection, name)
    except exc.ProgrammingError as error:
        if not isinstance(error.orig, errors.InsufficientPrivilege):
            raise
        raise RolesError(_required_statements(connection, missing)) from None
    for role, name in names.items():
        literal = name.replace("'", "''")
        _execute(
            connection,
            f"CREATE OR REPLACE FUNCTION public.{role}() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE"
            f" AS $patina$ SELECT '{literal}'::text $patina$",
        )
    return names


def _stored_name(connection: Connection, role: Role) -> str | None:
    """The name in the database, if its user may assume that role or the role is missing, as after a restore."""
    if not connection.execute(HAS_NAME_FUNCTION, {"function": role.value}).scalar_one():
        return None
    name: str = connection.exec_driver_sql(f"SELECT public.{role}()").scalar_one()
    is_missing = not connection.execute(EXISTS, {"role": name}).scalar_one()
    return name if is_missing or _is_usable(connection, name) else None


def _is_usable(connection: Connection, name: str) -> bool:
    is_usable: bool = connection.execute(IS_USABLE, {"role": name}).scalar_one()
    return is_usable


def _create(connection: Connection, name: str) -> None:
    if not connection.execute(EXISTS, {"role": name}).scalar_one():
        try:
            with connection.begin_nested():
                _execute(connection, f"CREATE ROLE {_quoted(name)} NOLOGIN")
        except exc.DBAPIError as error:
            # Another migration in this cluster created it first.
            if not isinstance(error.orig, (errors.DuplicateObject, errors.UniqueViolation)):
                raise
    # From PostgreSQL 16 on, the creator of a role may grant it but does not necessarily have the right to assume it.
    if not _is_usable(connection, name):
        with connection.begin_nested():
            _execute(connection, f"GRANT {_quoted(name)} TO CURRENT_USER")


def _required_statements(connection: Connection, names: Iterable[str]) -> str:
    user: str = connection.exec_driver_sql("SELECT current_user").scalar_one()
    statements = [f"CREATE ROLE {_quoted(name)} NOLOGIN; GRANT {_quoted(name)} TO {_quoted(user)};" for name in names]
    return "\n".join(["This database user may not create roles. Have somebody who may run:", *statements])


def _revoke_from_public(connection: Connection, names: dict[Role, str]) -> None:
    """Revoke connecting and creating objects from everybody else; `find_weaknesses` reports where we may not."""
    database = _quoted(connection.exec_driver_sql("SELECT current_database()").scalar_one())
    if connection.execute(OWNS_DATABASE).scalar_one():
        _execute(connection, f"GRANT CONNECT ON DATABASE {database} TO SESSION_USER")
        _execute(connection, f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    if connection.execute(OWNS_SCHEMA).scalar_one():
        _execute(connection, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        _execute(connection, f"GRANT USAGE ON SCHEMA public TO {', '.join(map(_quoted, names.values()))}")


def _secure_table(connection: Connection, table: Table, names: dict[Role, str]) -> None:
    quoted_table = _quoted(table.name)
    if table.has_account:
        _set_policy(connection, table, names)
    for role, name in names.items():
        _execute(connection, f"REVOKE ALL ON {quoted_table} FROM {_quoted(name)}")
        for privilege in _privileges(role, table.name):
            _execute(connection, f"GRANT {privilege} ON {quoted_table} TO {_quoted(name)}")


def _privileges(role: Role, table: str) -> Iterator[str]:
    if role is Role.PAGES:
        yield from PAGES.get(table, ())
        return
    for entry in READS:
        name, _, columns = entry.partition(" ")
        if name == table:
            yield f"SELECT {columns}"


def _set_policy(connection: Connection, table: Table, names: dict[Role, str]) -> None:
    """Change only what differs, because a changed policy locks its table."""
    quoted_table, column = _quoted(table.name), "id" if table.name == "account" else "account_id"
    if not table.is_secured:
        _execute(connection, f"ALTER TABLE {quoted_table} ENABLE ROW LEVEL SECURITY")
    quoted_roles = ", ".join(map(_quoted, names.values()))
    if table.policy_roles is None:
        _execute(
            connection, f"CREATE POLICY own_account ON {quoted_table} TO {quoted_roles} USING ({column} = {ACCOUNT})"
        )
    elif {_unquoted(role) for role in table.policy_roles} != set(names.values()):
        _execute(connection, f"ALTER POLICY own_account ON {quoted_table} TO {quoted_roles}")


def _unquoted(role: str) -> str:
    """A role's name as `regrole` writes it, without the quotes."""
    return role[1:-1].replace('""', '"') if role.startswith('"') else role


def _secure_functions(connection: Connection, names: dict[Role, str]) -> None:
    for function in connection.execute(FUNCTIONS).all():
        permitted = set(Role) if not function.is_definer else {DEFINERS.get(function.name)} & set(Role)
        _execute(connection, f"REVOKE ALL ON FUNCTION {function.signature} FROM PUBLIC")
        for role, name in names.items():
            statement = (
                "GRANT EXECUTE ON FUNCTION {} TO {}" if role in permitted else "REVOKE ALL ON FUNCTION {} FROM {}"
            )
            _execute(connection, statement.format(function.signature, _quoted(name)))
