"""Normalisation of email addresses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text

from services import access
from store.db.database import transaction
from tests.support.commands import patina
from tests.support.world import World
from worker.jobs import scheduler
from worker.sync import renormalisation
from worker.vendors.addresses import MAX_ADDRESSES, escape_invisible, extract_addresses, normalise_address

EQUIVALENT_SPELLINGS = {
    "capitals": "ANN@Acme.TEST",
    "blanks around": " \u00a0ann@acme.test\u3000\t",
    "a zero-width space": "\u200bann@ac\u200bme.test",
    "a byte order mark": "\ufeffann@acme.test",
    "a soft hyphen": "a\u00adnn@acme.test",
    "directional marks": "\u202aann@acme.test\u202c\u200e\u2066\u2069\u061c",
    "a word joiner and a variation selector": "ann\u2060\ufe0f@acme.test",
    "a zero character": "ann@acme.test\x00",
    "a scheme": "mailto:ann@acme.test",
    "a scheme in capitals with parameters": "MAILTO:ann@acme.test?subject=Invoice&cc=bob@acme.test",
    "a scheme with slashes": "mailto://ann@acme.test",
    "a label": "E-mail: ann@acme.test",
    "a label without a blank": "Email:ann@acme.test",
    "a display name": "Ann Smith <ann@acme.test>",
    "a quoted display name with a comma": '"Smith, Ann" <ann@acme.test>',
    "angle brackets": "<ann@acme.test>",
    "quotes": '"ann@acme.test"',
    "single quotes": "'ann@acme.test'",
    "typographic quotes": "\u201cann@acme.test\u201d",
    "a comment": "ann@acme.test (work)",
    "a full stop behind": "ann@acme.test.",
    "full-width letters in the domain": "ann@\uff41\uff43\uff4d\uff45.test",
    "an ideographic full stop": "ann@acme\u3002test",
    "escaped angle brackets": "Ann Smith &lt;ann@acme.test&gt;",
    "an escaped at sign": "ann&#64;acme.test",
    "an escaped at sign in hexadecimal": "ann&#X40;acme.test",
    "an escaped blank": "&nbsp;ann@acme.test&NBSP;",
    "brackets that were escaped twice": "&amp;lt;ann@acme.test&amp;gt;",
}


@pytest.mark.parametrize("typed", EQUIVALENT_SPELLINGS.values(), ids=EQUIVALENT_SPELLINGS.keys())
def test_equivalent_spellings_of_an_address_normalise_to_the_same(typed: str) -> None:
    assert normalise_address(typed) == "ann@acme.test"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("ann@acme.test,bob@acme.test", ["ann@acme.test", "bob@acme.test"]),
        ("ann@acme.test; Bob <bob@acme.test>", ["ann@acme.test", "bob@acme.test"]),
        ("ann@acme.test bob@acme.test\r\ncat@acme.test", ["ann@acme.test", "bob@acme.test", "cat@acme.test"]),
        ("ann@acme.test\u2028bob@acme.test\u3001cat@acme.test", ["ann@acme.test", "bob@acme.test", "cat@acme.test"]),
        ("ann@acme.test, , ANN@acme.test;", ["ann@acme.test"]),
        ("accounts@acme.test or n/a", ["accounts@acme.test"]),
        ("a&amp;b@acme.test", ["a&b@acme.test"]),
        ("a&b@acme.test;cat&dog;eve@acme.test", ["a&b@acme.test", "eve@acme.test"]),
        ("&lt;ann@acme.test&gt;&lt;bob@acme.test&gt;", ["ann@acme.test", "bob@acme.test"]),
        ("&#38;lt;ann@acme.test", ["ann@acme.test"]),
    ],
)
def test_a_list_of_addresses_is_split(typed: str, expected: list[str]) -> None:
    assert list(extract_addresses(typed)) == expected


@pytest.mark.parametrize(
    "typed",
    [
        *("", " ", None, "n/a", "@acme.test", "ann@", "ann", "ann @acme.test", "ann@ acme.test", "a@b@acme.test"),
        *("ann@..", "ann@a..test", "ann@acme/test", "ann@" + "x" * 260 + ".test", "x" * 400 + "@acme.test"),
        *("\u200b@\u200b", "ann@\ud800.test\x00@"),
    ],
)
def test_text_without_local_part_and_domain_is_not_an_address(typed: str | None) -> None:
    assert extract_addresses(typed) == {}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ann@bücher.test", "ann@xn--bcher-kva.test"),
        ("ann@BÜCHER.test", "ann@XN--BCHER-KVA.TEST"),
        ("ann@bu\u0308cher.test", "ann@bücher.test"),
        ("ann@straße.test", "ann@xn--strae-oqa.test"),
        ("ann@i❤.test", "ann@xn--i-7iq.test"),
        ("ann@acme_corp.test", "ann@ACME_Corp.test"),
        ("jos\u00e9@acme.test", "JOSE\u0301@acme.test"),
    ],
)
def test_spellings_of_the_same_domain_normalise_to_the_same(first: str, second: str) -> None:
    assert normalise_address(first) == normalise_address(second) is not None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ann@straße.test", "ann@strasse.test"),
        ("straße@acme.test", "strasse@acme.test"),
        ("ann+billing@acme.test", "ann@acme.test"),
        ("a.nn@acme.test", "ann@acme.test"),
        (".ann@acme.test", "ann@acme.test"),
        ("ann@mail.acme.test", "ann@acme.test"),
        ("o'brien@acme.test", "obrien@acme.test"),
        ("ﬁn@acme.test", "fin@acme.test"),
    ],
)
def test_different_addresses_stay_different(first: str, second: str) -> None:
    assert normalise_address(first) is not None
    assert normalise_address(first) != normalise_address(second)


def test_a_text_yields_a_bounded_number_of_addresses() -> None:
    typed = ";".join(f"a{number}@acme.test" for number in range(10_000))
    assert len(extract_addresses(typed, typed)) == MAX_ADDRESSES


SPELLINGS = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="aA@.:&#64ltgamp\"'<>;, %?ßİΣſ\u0301\u00ad\u200bmailto/xn-ü\u3002\u2764é", max_size=30),
    st.tuples(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=12)).map("@".join),
    st.lists(st.sampled_from(["&lt;", "&amp;", "amp;", "&#64;", "&#38;", "@", "ann", "acme.test", '"', ";", "?"])).map(
        "".join
    ),
)


@hypothesis_settings(max_examples=2_000, deadline=None)
@given(SPELLINGS)
def test_normalisation_is_idempotent(typed: str) -> None:
    for address, part in extract_addresses(typed).items():
        assert list(extract_addresses(address)) == [address]
        assert list(extract_addresses(part)) == [address]
        assert len(address) <= 320


def test_invisible_characters_are_shown_by_their_names() -> None:
    assert escape_invisible("an\u200bn@acme.test\ufeff") == "an<U+200B>n@acme.test<U+FEFF>"


# Storage, display and erasure


def test_explain_shows_an_address_as_typed_and_as_normalised(world: World) -> None:
    person = world.person("Ann <ANN@Bücher.test>", "\u200bann@acme.test")
    other_person = world.person("plain@acme.test")
    invoice = world.invoice(world.contact("Bücher", "mailto:ann@xn--bcher-kva.test", ["ANN@acme.test; zoe@acme.test"]))
    world.settle()

    assert world.invoice_numbers("people", person) == [invoice.number]
    output = " ".join(patina("explain", "person", str(person)).stdout.split())
    assert "ann@xn--bcher-kva.test (in Copper: ANN@Bücher.test) (person" in output
    assert "ann@acme.test (in Copper: <U+200B>ann@acme.test) (person" in output
    assert "matched by ann@xn--bcher-kva.test (in Xero: mailto:ann@xn--bcher-kva.test) (person" in output
    assert "(in Copper" not in patina("explain", "person", str(other_person)).stdout
    admin = {"Authorization": f"Bearer {access.create_key(world.account, 'admin', ['admin'])}"}
    payload = world.web.get(f"/v1/people/{person}/match", headers=admin).json()
    assert {(address["email"], address["as_typed"]) for address in payload["addresses"]} == {
        ("ann@xn--bcher-kva.test", "ANN@Bücher.test"),
        ("ann@acme.test", "\u200bann@acme.test"),
    }
    assert payload["contacts"][0]["reasons"][0]["contact_as_typed"] == "ANN@acme.test"


def test_a_new_spelling_is_stored_and_moves_no_invoice(world: World) -> None:
    person = world.person("ANN@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    for typed in ("Ann@Acme.test", "ann@acme.test", "mailto:ann@acme.test"):
        world.simulate_copper("update_record", type="person", id=person, emails=[typed])
        world.settle()
        with transaction() as session:
            (as_typed,) = session.execute(text("SELECT as_typed FROM copper_record_email")).scalars()
        assert as_typed == (typed if typed != "ann@acme.test" else None)
        assert world.invoice_numbers("people", person) == [invoice.number]


def test_erasing_a_person_erases_the_address_as_typed(world: World) -> None:
    world.person("Ann <ANN@Bücher.test>", "bob@acme.test")
    world.contact("Ann", "ann@bücher.test; bob@acme.test")
    world.settle()
    with transaction() as session:
        session.execute(
            text(
                "INSERT INTO inbox (account_id, vendor, tenant, category, event_type, resource_id, "
                "dedupe_key, correlation_id,"
                " state, body) VALUES (0, 'xero', '', 'malformed', '', '', '', '', 'failed', :body)"
            ),
            {"body": "of ANN@Bücher.test".encode()},
        )
    completed = patina("erase-person", "--email", "ann@xn--bcher-kva.test")
    assert "erased from 1 record, 1 contact and 1 stored body" in completed.stdout
    with transaction() as session:
        for table in ("copper_record_email", "xero_contact_email"):
            rows = list(session.execute(text(f"SELECT t::text FROM {table} t")).scalars())
            assert len(rows) == 1
            assert "bob@acme.test" in rows[0]
    assert patina("erase-person", "--email", "ann@acme.test, bob@acme.test").returncode == 2, "one person at a time"


# Mirrors of an earlier version

OLD: dict[str, list[str]] = {
    "ann@acme.test; bob@acme.test": ["ann@acme.test", "bob@acme.test"],
    "mailto:ann@acme.test": ["ann@acme.test"],
    "ann smith <ann@acme.test>": ["ann@acme.test"],
    "\u200bann@acme.test": ["ann@acme.test"],
    "ann@bücher.test": ["ann@xn--bcher-kva.test"],
    "a@b@acme.test": [],
    "jörg@acme.test": ["jörg@acme.test"],
}


def _plant(world: World, table: str, key: dict[str, Any], email: str) -> None:
    columns = ", ".join(("account_id", *key, "email"))
    values = ", ".join(("account_id", *map(repr, key.values()), ":email"))
    condition = " AND ".join(f"{name} = {value!r}" for name, value in key.items())
    with transaction() as session:
        session.execute(text(f"DELETE FROM {table} WHERE {condition}"))
        session.execute(
            text(f"INSERT INTO {table} ({columns}) SELECT {values} FROM (SELECT id AS account_id FROM account) a"),
            {"email": email},
        )


@pytest.mark.parametrize("old", OLD, ids=[repr(old) for old in OLD])
def test_addresses_of_an_earlier_version_are_normalised_at_the_next_start(world: World, old: str) -> None:
    people = {address: world.person(address) for address in ("ann@acme.test", "ann@bücher.test", "jörg@acme.test")}
    holder = world.person("holder@acme.test")
    contact = world.contact("Acme", "holder@acme.test")
    invoice = world.invoice(contact)
    world.settle()
    with transaction() as session:
        organisation = session.execute(text("SELECT id FROM xero_organisation")).scalar_one()
    _plant(world, "xero_contact_email", {"organisation_id": organisation, "contact_id": contact}, old)
    _plant(world, "copper_record_email", {"record_type": "person", "record_id": holder}, old)
    with transaction() as session:
        session.execute(
            text("INSERT INTO projection_queue (account_id, entity_type, email) SELECT id, 'email', :e FROM account"),
            {"e": old},
        )
    world.settle()
    stale = OLD[old] != [old]
    assert renormalisation.count_stale(world.account) == (2 if stale else 0)

    scheduler.renormalise_addresses()
    world.settle()

    assert renormalisation.count_stale(world.account) == 0
    with transaction() as session:
        for table in ("xero_contact_email", "copper_record_email"):
            condition = "" if table == "xero_contact_email" else f"WHERE record_id = {holder}"
            stored = set(session.execute(text(f"SELECT email FROM {table} {condition}")).scalars())
            assert stored == set(OLD[old]), table
    for typed, person in people.items():
        expected = [invoice.number] if normalise_address(typed) in OLD[old] else []
        assert world.invoice_numbers("people", person) == expected, typed
    scheduler.renormalise_addresses()
    world.reconcile()
    assert world.invoice_numbers("people", holder) == [invoice.number], (
        "a reconciliation reads what is typed at the vendors"
    )
    world.check()


def test_verify_counts_addresses_with_an_outdated_normalisation(world: World) -> None:
    world.person("Ann@acme.test")
    world.settle()
    assert patina("verify").stdout == "verify ok: 0 missing, 0 stale, 0 extra\n"
    with transaction() as session:
        session.execute(text("UPDATE copper_record_email SET email = 'other@acme.test'"))
    completed = patina("verify")
    assert completed.returncode == 1
    assert completed.stdout == (
        "1 email address is stored in an outdated normal form: run `patina reconcile`\n"
        "verify failed: 0 missing, 0 stale, 0 extra, 1 stale email address\n"
    )
    assert '"stale_addresses": 1' in patina("verify", "--json").stdout
    world.reconcile()
    assert patina("verify").returncode == 0
