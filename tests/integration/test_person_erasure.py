"""An erased person is in no column of any table; rows that only contain the name are reported."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from services.person_erasure import decode_json_bytes, spellings
from store.accounts import admins, api_keys, audit, browser_sessions, copper_credentials, erasure, invitations
from store.accounts.browser_sessions import SessionOrigin
from store.db.database import database_now, transaction
from store.db.enums import SignInMethod
from store.mirror import mirror
from tests.integration.test_admin_pages import page_text
from tests.support.admin import AdminBrowser, sign_in
from tests.support.commands import patina
from tests.support.databases import clear_budgets
from tests.support.world import World
from worker.sync import projector
from worker.vendors.addresses import contains_address
from worker.vendors.copper import known_keys

COLUMNS = text("""
    SELECT table_name, column_name FROM information_schema.columns
    WHERE table_schema = 'public' AND (data_type IN ('text', 'bytea', 'jsonb', 'ARRAY') OR data_type LIKE 'char%')
    ORDER BY 1, 2
""")
RAW_BODIES = (
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
        "INSERT INTO inbox (account_id, vendor, tenant, category, event_type, resource_id, "
        "dedupe_key, correlation_id, state,"
        " body) VALUES (:account, 'xero', '', 'malformed', '', '', :key, '', 'failed', :body)",
        account=account_id,
        key=number.to_bytes(4, "big"),
        body=body,
    )


def columns_containing(needle: str) -> dict[str, list[str]]:
    """Every column of every table that contains a word, in any case, with its values."""
    columns_by_table: dict[str, list[str]] = {}
    with transaction() as session:
        for table, column in session.execute(COLUMNS).all():
            as_text = f"CASE WHEN {column} IS NULL THEN '' ELSE {column}::text END"
            rows = session.execute(text(f"SELECT {as_text} FROM {table}")).scalars()
            texts = [row for row in rows if needle in row.lower() or needle in _plain(row).lower()]
            if texts:
                columns_by_table[f"{table}.{column}"] = texts
    return columns_by_table


def _plain(output: str) -> str:
    """The text of a bytea column, decoded leniently."""
    raw = bytes.fromhex(output[2:]) if output.startswith("\\x") else b""
    return raw.replace(b"\0", b"").decode("utf-8", "replace")


@pytest.mark.parametrize("body", RAW_BODIES)
def test_an_address_is_found_in_every_spelling(body: bytes) -> None:
    texts = list(spellings(decode_json_bytes(body)))
    assert any(contains_address(text, "gretel.forgetme@acme.test") for text in texts)
    assert not any(contains_address(text, "retel.forgetme@acme.test.nz") for text in texts)
    assert not any(contains_address(text, "hansel@acme.test") for text in texts)


def test_an_address_within_a_longer_one_is_a_different_address() -> None:
    for similar_address in (
        "joann@acme.test",
        "mc.ann@acme.test",
        "ann@acme.test.nz",
        "ann@acme.testing",
        "x+ann@acme.test",
    ):
        assert not contains_address(f"Deal with {similar_address}, today", "ann@acme.test"), similar_address
    for hers in ("ann@acme.test.", "(ann@acme.test)", "to:ann@acme.test", "email=ann@acme.test&x=1"):
        assert contains_address(f"Deal with {hers}", "ann@acme.test"), hers


def test_both_forms_of_a_domain_are_equal() -> None:
    assert contains_address("to gretel@bücher.test, please", "gretel@xn--bcher-kva.test")
    assert contains_address("to GRETEL@XN--BCHER-KVA.TEST.", "gretel@xn--bcher-kva.test")
    assert not contains_address("to gretel@bucher.test", "gretel@xn--bcher-kva.test")


def record(world: World, record_type: str, name: str, **values: object) -> int:
    return int(world.simulate_copper("create_record", type=record_type, name=name, **values)["id"])


@pytest.fixture
def gretel(world: World) -> dict[str, int]:
    """A person, a contact with her address, one linked manually, and other rows with her name."""
    clear_budgets("throttle")
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
    for number, body in enumerate(RAW_BODIES):
        keep_body(world.account, number, body)
    keep_body(0, 99, RAW_BODIES[0])
    keep_body(world.account, 100, b'{"name":"gretel FORGETME"}')
    keep_body(world.account, 101, b'{"name":"Hansel"}')
    with transaction() as session:
        audit.record(session, world.account, "gretel.forgetme@acme.test", "admin.signed_in", "with Copper")
        audit.record(session, world.account, "Ada", "key.created", "for Gretel.Forgetme@acme.test (read)")
        audit.record(
            session,
            world.account,
            "Ada",
            "contact.linked",
            f"Gretel Forgetme Home and Gretel Forgetme (person {ids['person']})",
        )
        browser_sessions.create(
            session, world.account, "viewer", 77, "gretel.forgetme@acme.test", SessionOrigin(SignInMethod.COPPER)
        )
        invitations.create(session, "for gretel.forgetme@acme.test", 7)
        admins.add(session, world.account, 77, "gretel.forgetme@acme.test")
        api_keys.create(session, world.account, "For gretel.forgetme@ACME.test")
    return ids


def test_erasing_an_address_removes_it_from_every_column_of_every_table(world: World, gretel: dict[str, int]) -> None:
    assert columns_containing("gretel.forgetme"), "she is everywhere"
    completed = patina("erase-person", "--email", " Gretel.Forgetme@ACME.test ")
    assert completed.returncode == 0, completed.stderr
    first = completed.stdout.splitlines()[0]
    assert first.startswith("erase-person ok: erased from 2 records, 2 contacts, 10 stored bodies and "), first
    projector.project(world.account)
    assert columns_containing("gretel.forgetme") == {}
    remaining = columns_containing("gretel forgetme")
    assert set(remaining) == {"copper_record.name", "copper_record.name_key", "inbox.body"}, remaining
    assert remaining["copper_record.name"] == ["Gretel Forgetme (sole trader)"]
    assert f"  company {gretel['company']}: Gretel Forgetme (sole trader)" in completed.stdout
    assert "  event " in completed.stdout
    assert columns_containing("hansel"), "what is others' stays"
    with transaction() as session:
        noted = session.execute(text("SELECT detail FROM audit_log WHERE action = 'person.erased'")).scalar_one()
    assert noted.startswith("2 records, 2 contacts, 10 stored bodies")
    assert patina("erase-person", "--record", f"company/{gretel['company']}").returncode == 0
    assert set(columns_containing("gretel forgetme")) == {"inbox.body"}


def test_a_person_without_an_address_is_erased_by_record_and_by_contact(world: World, gretel: dict[str, int]) -> None:
    execute("DELETE FROM copper_record_email")
    execute("DELETE FROM xero_contact_email")
    completed = patina("erase-person", "--record", f"people/{gretel['person']}")
    assert completed.stdout.startswith("erase-person ok: erased from 1 record, 1 contact and 0 stored bodies"), (
        completed.stdout + completed.stderr
    )
    with transaction() as session:
        contact = session.execute(
            text("SELECT contact_id FROM xero_contact WHERE name = 'Gretel Forgetme'")
        ).scalar_one()
    assert f"  contact {contact}: Gretel Forgetme" in completed.stdout
    completed = patina("erase-person", "--contact", str(contact))
    assert completed.stdout.startswith("erase-person ok: erased from 0 records, 1 contact and 0 stored bodies"), (
        completed.stdout
    )
    assert "xero_contact.name" not in columns_containing("gretel")
    assert "record_invoice.issuer" not in columns_containing("gretel")


def test_erasing_an_address_erases_the_owner_of_a_key(world: World) -> None:
    with transaction() as session:
        credentials = copper_credentials.get(session, world.account)
    known_keys.record(credentials.api_key, credentials.email, world.copper)
    known_keys.record("a key", "else@acme.test", world.copper)
    assert patina("erase-person", "--email", credentials.email.upper()).returncode == 0
    assert known_keys.find_account_by_email(credentials.email) is None
    assert known_keys.find_account_by_email("else@acme.test") == world.copper


def test_an_unknown_person_is_reported_and_nothing_is_changed(world: World) -> None:
    for arguments, code, meaning in (
        (("--record", "person/4711"), 1, "has no person 4711"),
        (("--contact", "11111111-1111-4111-8111-111111111111"), 1, "has no Xero contact"),
        (("--email", "ann@acme.test", "--account", "4711"), 1, "There is no account 4711"),
        (("--record", "person"), 2, "person/9600073"),
        (("--record", "invoice/1"), 2, "person/9600073"),
        (("--contact", "gretel"), 2, "not the ID of a Xero contact"),
        (("--email", "nobody"), 2, "not a valid email address"),
        (("--email", "ann@acme.test", "--record", "person/1"), 2, "give one of"),
    ):
        completed = patina("erase-person", *arguments)
        assert completed.returncode == code, (arguments, completed.stdout, completed.stderr)
        assert meaning in " ".join((completed.stderr + completed.stdout).replace("│", " ").split()), completed.stderr
    with transaction() as session:
        assert not session.execute(text("SELECT FROM audit_log WHERE action = 'person.erased'")).all()


def test_the_audit_log_stores_ids_and_shows_current_names(world: World, gretel: dict[str, int]) -> None:
    admin: AdminBrowser = sign_in(world)
    admin.open("/audit")
    assert f"Gretel Forgetme Home and Gretel Forgetme (person {gretel['person']})" in page_text(admin)
    with transaction() as session:
        entries = (
            session.execute(text("SELECT detail FROM audit_log WHERE action = 'contact.linked' ORDER BY id"))
            .scalars()
            .all()
        )
    assert "Gretel" not in entries[0]
    patina("erase-person", "--record", f"person/{gretel['person']}")
    admin.open("/audit")
    assert f"unnamed contact and unnamed record (person {gretel['person']})" in page_text(admin)


def test_a_deleted_contact_loses_its_name_and_its_bills_lose_their_issuer(world: World) -> None:
    person = world.person("gretel@acme.test")
    world.contact("Gretel Forgetme", "gretel@acme.test")
    home = world.contact("Gretel Forgetme Home")
    world.invoice("gretel@acme.test", type="ACCPAY")
    world.settle()
    world.link("person", person, home)
    with transaction() as session:
        contacts = session.execute(text("SELECT organisation_id, contact_id FROM xero_contact")).all()
        mirror.tombstone_contacts(
            session, world.account, contacts[0][0], [contact[1] for contact in contacts], database_now(session)
        )
    projector.project(world.account)
    assert columns_containing("forgetme") == {}, "the person's own address stays"
    assert world.compare().is_clean


def test_generic_names_are_not_searched_for(world: World) -> None:
    with transaction() as session:
        assert erasure.find_namesakes(session, world.account, {"", "  ", "An"}, set()) == []
        assert erasure.find_namesakes(session, world.account, {"%%%"}, set()) == []
