"""Who may do what in the database: two roles of this database alone, and what each may do to each table.

- The owner runs commands, workers and receivers, for all accounts.
- The role of the pages (`bound_role()` in SQL) sees and changes rows of one account, and only what a page changes.
- The role of reads and exports (`read_role()`) sees rows of one account, and no secret.

A role belongs to the whole PostgreSQL cluster, so its name has the database's in it: whoever owns another database
there has no part in it. Both functions keep the names: a database made from another as its template uses the roles of
that one, as long as its owner may take them up.

`secure` brings a database to this state, whatever it was before. It runs after each migration, so that a new table
needs a line in `PAGES` here and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from psycopg import errors
from sqlalchemy import Connection, exc, text
from sqlmodel import Session

MAX_NAME_BYTES = 63
LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s'"
# Every version before the roles had a database's name in them used this one.
SHARED_ROLE = "patina_bound"


class Role(StrEnum):
    """A role that a transaction takes up: the SQL function that names it."""

    PAGES = "bound_role"
    READS = "read_role"

    @property
    def prefix(self) -> str:
        """What the role's name begins with, before the database's."""
        return {Role.PAGES: "patina_bound_", Role.READS: "patina_read_"}[self]


# What the pages change, each column that they change. No line: the table is nobody's but the owner's.
PAGES: dict[str, tuple[str, ...]] = {
    "account": ("SELECT", "UPDATE (record_types, shown, show_bills, visible_to_teams, setup_step)"),
    "api_key": ("SELECT", "INSERT", "UPDATE (revoked_at)"),
    "audit": ("SELECT", "INSERT"),
    "call_meter": ("SELECT",),
    "contact_link": ("SELECT", "INSERT", "DELETE"),
    "copper_credential": ("SELECT (account_id, sealed, status, changed_at, records_seen_to)",),
    "crm_record": ("SELECT",),
    "crm_record_email": ("SELECT",),
    "crm_relation": ("SELECT",),
    "dirty": ("INSERT",),
    "dropped_events": ("SELECT",),
    "freshness": ("SELECT",),
    "heartbeat": ("SELECT",),
    "inbox": ("SELECT", "UPDATE (state, attempts, not_before, error, finished_at, body)"),
    "invoice": ("SELECT",),
    "named_admin": ("SELECT", "INSERT", "UPDATE (name)", "DELETE"),
    "oauth_state": ("SELECT", "INSERT", "DELETE"),
    "record_balance": ("SELECT",),
    "record_invoice": ("SELECT",),
    "refused_endpoint": ("SELECT",),
    "sync_run": ("SELECT",),
    "unreadable_field": ("SELECT",),
    "web_session": (
        "SELECT (account_id, id, user_id, user_name, role, method, surface, client, created_at, used_at, expires_at)",
        "UPDATE (teams, teams_at)",
        "DELETE",
    ),
    "xero_contact": ("SELECT",),
    "xero_contact_email": ("SELECT",),
    "xero_grant": ("SELECT (account_id, id, status)",),
    "xero_organisation": ("SELECT",),
}
READS = (
    "account",
    "contact_link",
    "crm_record",
    "crm_record_email",
    "crm_relation",
    "invoice",
    "record_balance",
    "record_invoice",
    "refused_endpoint",
    "sync_run",
    "xero_contact",
    "xero_contact_email",
    "xero_grant (account_id, id, status)",
    "xero_organisation",
)
# A function with its owner's rights is for those alone who cannot do without it.
DEFINERS: dict[str, Role] = {"account_of_key": Role.READS}

ACCOUNT = "NULLIF(current_setting('patina.account', true), '')::bigint"
IS_KNOWN = text("""
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
# An extension's functions are its own business.
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
           has_schema_privilege('public', 'public', 'CREATE') AS takes_objects,
           EXISTS (SELECT FROM pg_policies WHERE schemaname = 'public' AND :shared = ANY(roles)) AS has_shared_role
    FROM pg_roles u WHERE u.rolname = current_user
""")


class RolesError(Exception):
    """The database's user may not make the roles that it needs; the text has the statements for somebody who may."""


@dataclass(frozen=True)
class Table:
    """A table of the schema: whether it holds rows of accounts, and which roles its policy admits (None: none)."""

    name: str
    is_secured: bool
    has_account: bool
    policy_roles: list[str] | None


@dataclass(frozen=True)
class Weakness:
    """A way around the roles: what it is, and what helps."""

    what: str
    remedy: str


def role_name(role: Role, database: str) -> str:
    """A role's name in a database: no longer than PostgreSQL takes, and another one for each database."""
    name = f"{role.prefix}{database}"
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(database.encode()).hexdigest()[:12]
    room = MAX_NAME_BYTES - len(digest) - 1
    return f"{name.encode()[:room].decode(errors='ignore')}_{digest}"


def secure(connection: Connection) -> None:
    """Give the roles their rights in this database, and nobody else any. Safe to repeat; inside one transaction.

    Raises `RolesError` where the roles are missing and the database's user may not make them.
    """
    connection.exec_driver_sql(LOCK_TIMEOUT)
    tables = [Table(*row) for row in connection.execute(TABLES)]
    if not any(table.name == "account" for table in tables):
        return
    names = _ensure_roles(connection)
    _close_to_others(connection, names)
    for table in tables:
        _secure_table(connection, table, names)
    _secure_functions(connection, names, tables)


def weaknesses(session: Session) -> list[Weakness]:
    """What lets somebody around the roles, apart from whoever may do everything in the cluster."""
    found = session.execute(WEAKNESSES, {"shared": SHARED_ROLE}).one()
    database, owner = _quoted(found.database), _quoted(found.owner)
    plain = f"ALTER ROLE {owner} NOSUPERUSER NOBYPASSRLS"
    every = (
        (found.is_superuser, "the database's user is a superuser", f"Use an ordinary role: {plain}."),
        (
            found.bypasses and not found.is_superuser,
            "the database's user bypasses row-level security",
            f"Run: {plain}.",
        ),
        (
            found.is_open,
            "every user of the cluster may connect to this database",
            f"Run as the database's owner: REVOKE ALL ON DATABASE {database} FROM PUBLIC.",
        ),
        (
            found.takes_objects,
            "every user of the database may create objects in the schema public",
            "Run as the schema's owner: REVOKE CREATE ON SCHEMA public FROM PUBLIC.",
        ),
        (
            found.has_shared_role,
            f"the role {SHARED_ROLE} of an older version still has rights",
            f"Once every process runs this version, run: DROP OWNED BY {SHARED_ROLE}.",
        ),
    )
    return [Weakness(what, remedy) for is_there, what, remedy in every if is_there]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _run(connection: Connection, statement: str) -> None:
    """Run a statement made here; a `%` in a name is no parameter."""
    connection.exec_driver_sql(statement.replace("%", "%%"))


def _ensure_roles(connection: Connection) -> dict[Role, str]:
    """The names of both roles, which exist and can be taken up by the database's user."""
    database: str = connection.exec_driver_sql("SELECT current_database()").scalar_one()
    names = {role: _kept_name(connection, role) or role_name(role, database) for role in Role}
    lacking = [name for name in names.values() if not _is_usable(connection, name)]
    try:
        for name in lacking:
            _make(connection, name)
    except exc.ProgrammingError as error:
        if not isinstance(error.orig, errors.InsufficientPrivilege):
            raise
        raise RolesError(_wanted(connection, lacking)) from None
    for role, name in names.items():
        literal = name.replace("'", "''")
        _run(
            connection,
            f"CREATE OR REPLACE FUNCTION public.{role}() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE"
            f" AS $patina$ SELECT '{literal}'::text $patina$",
        )
    return names


def _kept_name(connection: Connection, role: Role) -> str | None:
    """The name that the database keeps, if its user may take that role up (or it is to be made, as after a restore)."""
    if not connection.execute(IS_KNOWN, {"function": role.value}).scalar_one():
        return None
    name: str = connection.exec_driver_sql(f"SELECT public.{role}()").scalar_one()
    is_free = not connection.execute(EXISTS, {"role": name}).scalar_one()
    return name if is_free or _is_usable(connection, name) else None


def _is_usable(connection: Connection, name: str) -> bool:
    found: bool = connection.execute(IS_USABLE, {"role": name}).scalar_one()
    return found


def _make(connection: Connection, name: str) -> None:
    if not connection.execute(EXISTS, {"role": name}).scalar_one():
        try:
            with connection.begin_nested():
                _run(connection, f"CREATE ROLE {_quoted(name)} NOLOGIN")
        except exc.DBAPIError as error:
            # Another migration in this cluster was faster.
            if not isinstance(error.orig, (errors.DuplicateObject, errors.UniqueViolation)):
                raise
    # Whoever made a role may grant it to others, and need not be able to take it up (PostgreSQL 16 and later).
    if not _is_usable(connection, name):
        with connection.begin_nested():
            _run(connection, f"GRANT {_quoted(name)} TO CURRENT_USER")


def _wanted(connection: Connection, names: Iterable[str]) -> str:
    user: str = connection.exec_driver_sql("SELECT current_user").scalar_one()
    statements = [f"CREATE ROLE {_quoted(name)} NOLOGIN; GRANT {_quoted(name)} TO {_quoted(user)};" for name in names]
    return "\n".join(["This database user may not create roles. Have somebody who may run:", *statements])


def _close_to_others(connection: Connection, names: dict[Role, str]) -> None:
    """Nobody but whom the owner lets connects or creates anything; where we are not it, `weaknesses` tells."""
    database = _quoted(connection.exec_driver_sql("SELECT current_database()").scalar_one())
    if connection.execute(OWNS_DATABASE).scalar_one():
        _run(connection, f"GRANT CONNECT ON DATABASE {database} TO SESSION_USER")
        _run(connection, f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    if connection.execute(OWNS_SCHEMA).scalar_one():
        _run(connection, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        _run(connection, f"GRANT USAGE ON SCHEMA public TO {', '.join(map(_quoted, names.values()))}")


def _secure_table(connection: Connection, table: Table, names: dict[Role, str]) -> None:
    here = _quoted(table.name)
    if table.has_account:
        _set_policy(connection, table, names)
    for role, name in names.items():
        _run(connection, f"REVOKE ALL ON {here} FROM {_quoted(name)}")
        for right in _rights(role, table.name):
            _run(connection, f"GRANT {right} ON {here} TO {_quoted(name)}")


def _rights(role: Role, table: str) -> Iterator[str]:
    if role is Role.PAGES:
        yield from PAGES.get(table, ())
        return
    for entry in READS:
        name, _, columns = entry.partition(" ")
        if name == table:
            yield f"SELECT {columns}"


def _set_policy(connection: Connection, table: Table, names: dict[Role, str]) -> None:
    """Only what is not there yet: a policy that changes locks its table."""
    here, column = _quoted(table.name), "id" if table.name == "account" else "account_id"
    if not table.is_secured:
        _run(connection, f"ALTER TABLE {here} ENABLE ROW LEVEL SECURITY")
    # Processes of the version before go on with the role that they know, until its rights are dropped.
    older = [SHARED_ROLE] if SHARED_ROLE in (table.policy_roles or []) else []
    wanted = [*names.values(), *older]
    admitted = ", ".join(map(_quoted, wanted))
    if table.policy_roles is None:
        _run(connection, f"CREATE POLICY own_account ON {here} TO {admitted} USING ({column} = {ACCOUNT})")
    elif {_unquoted(role) for role in table.policy_roles} != set(wanted):
        _run(connection, f"ALTER POLICY own_account ON {here} TO {admitted}")


def _unquoted(role: str) -> str:
    """A role as `regrole` writes it, without the quotes that an odd name needs."""
    return role[1:-1].replace('""', '"') if role.startswith('"') else role


def _secure_functions(connection: Connection, names: dict[Role, str], tables: Iterable[Table]) -> None:
    is_shared = any(SHARED_ROLE in (table.policy_roles or []) for table in tables)
    for function in connection.execute(FUNCTIONS).all():
        wanted = set(Role) if not function.is_definer else {DEFINERS.get(function.name)} & set(Role)
        _run(connection, f"REVOKE ALL ON FUNCTION {function.signature} FROM PUBLIC")
        for role, name in names.items():
            right = "GRANT EXECUTE ON FUNCTION {} TO {}" if role in wanted else "REVOKE ALL ON FUNCTION {} FROM {}"
            _run(connection, right.format(function.signature, _quoted(name)))
        if is_shared:
            _run(connection, f"GRANT EXECUTE ON FUNCTION {function.signature} TO {SHARED_ROLE}")
