"""Whoever asks to be forgotten is in no column of any table afterwards; what merely has the name is told."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from store import access, accounts, audit, browser_sessions, erasure, invitations, mirror
from store.browser_sessions import SessionOrigin
from store.database import now, transaction
from store.models import SignInMethod
from tests.admin import AdminBrowser
from tests.databases import forget_budgets
from tests.test_admin_answers import said
from tests.test_pages import sign_in
from tests.test_project import patina
from tests.world import World
from worker import known_keys, projecting
from worker.addresses import mentions
from worker.forgetting import decoded, spellings

COLUMNS = text("""
    SELECT table_name, column_name FROM information_schema.columns
    WHERE table_schema = 'public' AND (data_type IN ('text', 'bytea', 'jsonb', 'ARRAY') OR data_type LIKE 'char%')
    ORDER BY 1, 2
""")
BODIES = (
    b'{"email":"Gretel.Forgetme@Acme.test"}',
    b'{"email":"gretel.forgetme\\u0040acme.test"}',
    b'{"email":"\\u0067retel.forgetme@ACME.TEST","note":"\\u00fc',
    b'{"note":"write to <gretel.forgetme@acme.test>, please"}',
    b'{"escaped":"{\\"email\\":\\"gretel.forgetme\\\\u0040acme.test\\"}"}',
    b"email=gretel.forgetme%40acme.test&x=1",
    "gretel.forgetme@\u200bacme.test".encode(),
    "gretel.forgetme@acme.test".encode("utf-16"),
    b"<a>gretel.forgetme&#64;acme.test</a>",
)


def execute(statement: str, **params: object) -> None:
    with transaction() as session:
        session.execute(text(statement), params)


def keep_body(account_id: int, number: int, body: bytes) -> None:
    execute(
        "INSERT INTO inbox (account_id, source, tenant, kind, event, resource_id, dedupe_key, correlation_id, state,"
        " body) VALUES (:account, 'xero', '', 'malformed', '', '', :key, '', 'failed', :body)",
        account=account_id,
        key=number.to_bytes(4, "big"),
        body=body,
    )


def places_of(word: str) -> dict[str, list[str]]:
    """Every column of every table that has a word in it, in whatever case, with what stands there."""
    found: dict[str, list[str]] = {}
    with transaction() as session:
        for table, column in session.execute(COLUMNS).all():
            as_text = f"CASE WHEN {column} IS NULL THEN '' ELSE {column}::text END"
            rows = session.execute(text(f"SELECT {as_text} FROM {table}")).scalars()
            texts = [one for one in rows if word in one.lower() or word in _plain(one).lower()]
            if texts:
                found[f"{table}.{column}"] = texts
    return found


def _plain(said: str) -> str:
    """What a bytea says, read as leniently as can be."""
    raw = bytes.fromhex(said[2:]) if said.startswith("\\x") else b""
    return raw.replace(b"\0", b"").decode("utf-8", "replace")


@pytest.mark.parametrize("body", BODIES)
def test_an_address_is_found_in_whatever_spelling(body: bytes) -> None:
    texts = list(spellings(decoded(body)))
    assert any(mentions(one, "gretel.forgetme@acme.test") for one in texts)
    assert not any(mentions(one, "retel.forgetme@acme.test.nz") for one in texts)
    assert not any(mentions(one, "hansel@acme.test") for one in texts)


def test_an_address_within_a_longer_one_is_another_ones() -> None:
    for other in ("joann@acme.test", "mc.ann@acme.test", "ann@acme.test.nz", "ann@acme.testing", "x+ann@acme.test"):
        assert not mentions(f"Deal with {other}, today", "ann@acme.test"), other
    for hers in ("ann@acme.test.", "(ann@acme.test)", "to:ann@acme.test", "email=ann@acme.test&x=1"):
        assert mentions(f"Deal with {hers}", "ann@acme.test"), hers


def test_both_forms_of_a_domain_are_one() -> None:
    assert mentions("to gretel@bücher.test, please", "gretel@xn--bcher-kva.test")
    assert mentions("to GRETEL@XN--BCHER-KVA.TEST.", "gretel@xn--bcher-kva.test")
    assert not mentions("to gretel@bucher.test", "gretel@xn--bcher-kva.test")


def record(world: World, kind: str, name: str, **more: object) -> int:
    return int(world.copper_act("make_record", type=kind, name=name, **more)["id"])


@pytest.fixture
def gretel(world: World) -> dict[str, int]:
    """A person with an address, a contact with it, one linked by hand without it, and all that has her name."""
    forget_budgets("throttle")
    ids = {
        "person": record(world, "person", "Gretel Forgetme", emails=["gretel.forgetme@acme.test"]),
        "company": record(world, "company", "Gretel Forgetme (sole trader)"),
        "opportunity": record(world, "opportunity", "Deal with Gretel Forgetme <gretel.forgetme@acme.test>"),
    }
    world.contact("Gretel Forgetme", "gretel.forgetme@acme.test")
    home = world.contact("Gretel Forgetme Home")
    world.invoice("gretel.forgetme@acme.test", type="ACCPAY")
    world.invoice(home)
    world.settle()
    admin = sign_in(world)
    with transaction() as session:
        organisation = session.execute(text("SELECT id FROM xero_organisation")).scalar_one()
    admin.open(f"/records/person/{ids['person']}/match")
    admin.send("/links", organisation=str(organisation), contact=home, type="person", record=str(ids["person"]))
    world.settle()
    for number, body in enumerate(BODIES):
        keep_body(world.account, number, body)
    keep_body(0, 99, BODIES[0])
    keep_body(world.account, 100, b'{"name":"gretel FORGETME"}')
    keep_body(world.account, 101, b'{"name":"Hansel"}')
    with transaction() as session:
        audit.note(session, world.account, "gretel.forgetme@acme.test", "admin.signed_in", "with Copper")
        audit.note(session, world.account, "Ada", "key.made", "for Gretel.Forgetme@acme.test (read)")
        audit.note(
            session,
            world.account,
            "Ada",
            "contact.linked",
            f"Gretel Forgetme Home and Gretel Forgetme (person {ids['person']})",
        )
        browser_sessions.open_session(
            session, world.account, "viewer", 77, "gretel.forgetme@acme.test", SessionOrigin(SignInMethod.COPPER)
        )
        invitations.create(session, "for gretel.forgetme@acme.test", 7)
        access.name_admin(session, world.account, 77, "gretel.forgetme@acme.test")
        access.make_key(session, world.account, "For gretel.forgetme@ACME.test")
    return ids


def test_forgetting_an_address_leaves_it_in_no_column_of_any_table(world: World, gretel: dict[str, int]) -> None:
    assert places_of("gretel.forgetme"), "she is everywhere"
    done = patina("forget", "--email", " Gretel.Forgetme@ACME.test ")
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith("forget ok: erased from 2 records, 2 contacts, 10 kept bodies and "), first
    projecting.project(world.account)
    assert places_of("gretel.forgetme") == {}
    left = places_of("gretel forgetme")
    assert set(left) == {"crm_record.name", "inbox.body"}, left
    assert left["crm_record.name"] == ["Gretel Forgetme (sole trader)"]
    assert f"  company {gretel['company']}: Gretel Forgetme (sole trader)" in done.stdout
    assert "  event " in done.stdout
    assert places_of("hansel"), "what is others' stays"
    with transaction() as session:
        noted = session.execute(text("SELECT detail FROM audit WHERE action = 'person.forgotten'")).scalar_one()
    assert noted.startswith("2 records, 2 contacts, 10 kept bodies")
    assert patina("forget", "--record", f"company/{gretel['company']}").returncode == 0
    assert set(places_of("gretel forgetme")) == {"inbox.body"}


def test_a_person_is_forgotten_by_record_and_by_contact_after_the_address_is_gone(
    world: World, gretel: dict[str, int]
) -> None:
    execute("DELETE FROM crm_record_email")
    execute("DELETE FROM xero_contact_email")
    done = patina("forget", "--record", f"people/{gretel['person']}")
    assert done.stdout.startswith("forget ok: erased from 1 record, 1 contact and 0 kept bodies"), (
        done.stdout + done.stderr
    )
    with transaction() as session:
        contact = session.execute(
            text("SELECT contact_id FROM xero_contact WHERE name = 'Gretel Forgetme'")
        ).scalar_one()
    assert f"  contact {contact}: Gretel Forgetme" in done.stdout
    done = patina("forget", "--contact", str(contact))
    assert done.stdout.startswith("forget ok: erased from 0 records, 1 contact and 0 kept bodies"), done.stdout
    assert "xero_contact.name" not in places_of("gretel")
    assert "record_invoice.issuer" not in places_of("gretel")


def test_forgetting_an_address_forgets_whose_key_came_with_it(world: World) -> None:
    with transaction() as session:
        held = accounts.copper_access(session, world.account)
    known_keys.remember(held.api_key, held.email, world.copper)
    known_keys.remember("a key", "else@acme.test", world.copper)
    assert patina("forget", "--email", held.email.upper()).returncode == 0
    assert known_keys.account_of_email(held.email) is None
    assert known_keys.account_of_email("else@acme.test") == world.copper


def test_whom_nobody_knows_is_said_and_nothing_is_changed(world: World) -> None:
    for words, code, meaning in (
        (("--record", "person/4711"), 1, "has no person 4711"),
        (("--contact", "11111111-1111-4111-8111-111111111111"), 1, "has no Xero contact"),
        (("--email", "ann@acme.test", "--account", "4711"), 1, "There is no account 4711"),
        (("--record", "person"), 2, "person/9600073"),
        (("--record", "invoice/1"), 2, "person/9600073"),
        (("--contact", "gretel"), 2, "not the ID of a Xero contact"),
        (("--email", "nobody"), 2, "not a valid email address"),
        (("--email", "ann@acme.test", "--record", "person/1"), 2, "give one of"),
    ):
        done = patina("forget", *words)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert meaning in " ".join((done.stderr + done.stdout).replace("│", " ").split()), done.stderr
    with transaction() as session:
        assert not session.execute(text("SELECT FROM audit WHERE action = 'person.forgotten'")).all()


def test_the_audit_log_keeps_ids_and_shows_the_names_of_today(world: World, gretel: dict[str, int]) -> None:
    admin: AdminBrowser = sign_in(world)
    admin.open("/trail")
    assert f"Gretel Forgetme Home and Gretel Forgetme (person {gretel['person']})" in said(admin)
    with transaction() as session:
        kept = (
            session.execute(text("SELECT detail FROM audit WHERE action = 'contact.linked' ORDER BY id"))
            .scalars()
            .all()
        )
    assert "Gretel" not in kept[0]
    patina("forget", "--record", f"person/{gretel['person']}")
    admin.open("/trail")
    assert f"unnamed contact and unnamed record (person {gretel['person']})" in said(admin)


def test_a_contact_that_is_gone_loses_its_name_and_its_bills_their_issuer(world: World) -> None:
    person = world.person("gretel@acme.test")
    world.contact("Gretel Forgetme", "gretel@acme.test")
    home = world.contact("Gretel Forgetme Home")
    world.invoice("gretel@acme.test", type="ACCPAY")
    world.settle()
    world.link("person", person, home)
    with transaction() as session:
        contacts = session.execute(text("SELECT organisation_id, contact_id FROM xero_contact")).all()
        mirror.bury_contacts(session, world.account, contacts[0][0], [one[1] for one in contacts], now(session))
    projecting.project(world.account)
    assert places_of("forgetme") == {}, "the person's own address stays"
    assert world.compare().clean


def test_names_that_say_nothing_are_not_looked_for(world: World) -> None:
    with transaction() as session:
        assert erasure.namesakes(session, world.account, {"", "  ", "An"}, set()) == []
        assert erasure.namesakes(session, world.account, {"%%%"}, set()) == []
