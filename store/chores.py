"""When recurring chores were last begun, and when processes were last up: claims that two schedulers may race for."""

from __future__ import annotations

from sqlalchemy import text
from sqlmodel import Session

from store.database import AccountClosedError
from store.tenancy import HOLD_ACCOUNT

INSTALLATION = 0

# A chore that was never begun counts from the account's creation, so that nothing runs on top of a first backfill.
KNOW = text("""
    INSERT INTO chore (account_id, name, begun_at)
    SELECT id, :name, created_at FROM account a
    WHERE closed_at IS NULL AND NOT EXISTS (SELECT FROM chore c WHERE c.account_id = a.id AND c.name = :name)
    FOR KEY SHARE
    ON CONFLICT DO NOTHING
""")
KNOW_INSTALLATION = text("""
    INSERT INTO chore (account_id, name, begun_at) VALUES (0, :name, '-infinity') ON CONFLICT DO NOTHING
""")
CLAIM = text("""
    UPDATE chore c SET begun_at = now()
    WHERE c.name = :name AND c.account_id <> 0 AND c.begun_at <= now() - make_interval(secs => :seconds)
      AND EXISTS (SELECT FROM account a WHERE a.id = c.account_id AND a.closed_at IS NULL)
    RETURNING c.account_id
""")
CLAIM_INSTALLATION = text("""
    UPDATE chore SET begun_at = now()
    WHERE name = :name AND account_id = 0 AND begun_at <= now() - make_interval(secs => :seconds)
    RETURNING account_id
""")
CLAIM_ONE = text(f"""
    WITH held AS ({HOLD_ACCOUNT.format(account=":account")})
    INSERT INTO chore AS c (account_id, name) SELECT id, :name FROM held
    ON CONFLICT (account_id, name) DO UPDATE SET begun_at = now()
    WHERE c.begun_at <= now() - make_interval(secs => :seconds)
    RETURNING account_id
""")
WAIT_OF_ONE = text("""
    SELECT greatest(:seconds - extract(epoch FROM now() - begun_at), 0) FROM chore
    WHERE account_id = :account AND name = :name
""")
# An account's own minute of the night lies at the hour plus a share of the spread that its id decides.
CLAIM_NIGHTLY = text("""
    UPDATE chore c SET begun_at = now()
    FROM (SELECT id, make_interval(hours => :hour, secs => (id * 7919 % 86400) / 86400.0 * :spread * 3600) AS at
          FROM account WHERE closed_at IS NULL) a
    WHERE c.name = :name AND c.account_id = a.id
      AND c.begun_at < date_trunc('day', now() AT TIME ZONE 'UTC' - a.at) AT TIME ZONE 'UTC' + a.at
    RETURNING c.account_id
""")
HEARTBEAT_AGES = text("SELECT process, extract(epoch FROM now() - at) FROM heartbeat")
BEAT = text("""
    WITH before AS (SELECT at FROM heartbeat WHERE process = :process),
    beat AS (
        INSERT INTO heartbeat (process) VALUES (:process)
        ON CONFLICT (process) DO UPDATE SET at = now()
        RETURNING 1)
    SELECT extract(epoch FROM now() - (SELECT at FROM before)) FROM beat
""")


def heartbeat_ages(session: Session) -> dict[str, float]:
    """Seconds since each kind of process was last known to be up; one that never was is left out."""
    return {row[0]: float(row[1]) for row in session.execute(HEARTBEAT_AGES)}


def claim(session: Session, name: str, seconds: float) -> list[int]:
    """The accounts whose chore `name` was begun `seconds` ago or longer; they count as begun now."""
    session.execute(KNOW, {"name": name})
    return list(session.execute(CLAIM, {"name": name, "seconds": seconds}).scalars())


def claim_one(session: Session, account_id: int, name: str, seconds: float) -> float:
    """Claim an account's chore, at most once in `seconds`; returns 0 when it is ours, or for how many seconds to wait.

    Unlike a recurring one it is due the first time. Raises `AccountClosedError` for an account that is gone.
    """
    chosen = {"account": account_id, "name": name, "seconds": seconds}
    if session.execute(CLAIM_ONE, chosen).first() is not None:
        return 0.0
    wait = session.execute(WAIT_OF_ONE, chosen).scalar_one_or_none()
    if wait is None:
        raise AccountClosedError(f"account {account_id} is closed")
    return max(float(wait), 0.1)


def claim_installation(session: Session, name: str, seconds: float) -> bool:
    """Whether a chore of the whole installation is due; if so it counts as begun now."""
    session.execute(KNOW_INSTALLATION, {"name": name})
    return session.execute(CLAIM_INSTALLATION, {"name": name, "seconds": seconds}).first() is not None


def claim_nightly(session: Session, name: str, hour: int, spread_hours: float) -> list[int]:
    """The accounts whose own time of this night has come; they count as begun now."""
    session.execute(KNOW, {"name": name})
    chosen = {"name": name, "hour": hour, "spread": spread_hours}
    return list(session.execute(CLAIM_NIGHTLY, chosen).scalars())


def beat(session: Session, process: str) -> float | None:
    """Note that a kind of process is up; returns seconds since the last note, None when there was none."""
    ago = session.execute(BEAT, {"process": process}).scalar_one()
    return float(ago) if ago is not None else None
