"""Links in the API (unmatched contacts, up to 50 at once) and on the command line (a CSV file)."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from services import access, link_import
from services.link_import import LinkFileError
from store.accounts import xero_organisations
from store.db.database import transaction
from tests.support.commands import patina
from tests.support.databases import clear_budgets
from tests.support.world import World

HEADER = "organisation,contact,record_type,record_id"


@pytest.fixture
def admin(world: World) -> dict[str, str]:
    clear_budgets("throttle")
    return {"Authorization": f"Bearer {access.create_key(world.account, 'admin', ['admin'])}"}


def organisation_of(world: World) -> int:
    with transaction() as session:
        return xero_organisations.list_connected(session, world.account)[0].id


def link_count() -> int:
    with transaction() as session:
        return int(session.execute(text("SELECT count(*) FROM contact_link")).scalar_one())


def post(world: World, headers: dict[str, str], links: list[Any]) -> httpx.Response:
    return world.web.post("/v1/links", headers=headers, json={"links": links})


def item(world: World, contact: str, record_type: str, record_id: int) -> dict[str, Any]:
    return {
        "organisation_id": organisation_of(world),
        "contact_id": contact,
        "record_type": record_type,
        "record_id": record_id,
    }


def test_unmatched_contacts_are_paged_with_their_suggestions(world: World, admin: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    near = world.contact("Acme", "an@acme.test")
    world.invoice(near, "50.00")
    for number in range(2):
        world.invoice(world.contact(f"Stray {number}"), "10.00")
    world.settle()

    page = world.web.get("/v1/unmatched", headers=admin, params={"limit": 2}).json()
    assert page["total"] == 3
    first = page["contacts"][0]
    assert (first["name"], first["emails"], first["reason"]) == ("Acme", ["an@acme.test"], "unknown_address")
    assert first["amounts"] == [{"currency": "NZD", "invoices": 1, "open": "50.00", "overdue": "0.00"}]
    assert first["suggestions"][0]["record"] == {"type": "person", "id": person}
    assert first["suggestions"][0]["reasons"][0] == {"similarity": "address", "detail": "ann@acme.test"}
    rest = world.web.get("/v1/unmatched", headers=admin, params={"limit": 2, "after": page["next"]}).json()
    assert (len(rest["contacts"]), rest["next"]) == (1, None)
    searched = world.web.get("/v1/unmatched", headers=admin, params={"search": "stray 1"}).json()
    assert [contact["name"] for contact in searched["contacts"]] == ["Stray 1"]
    no_address = world.web.get("/v1/unmatched", headers=admin, params={"reason": "no_address"}).json()
    assert no_address["total"] == 2
    for wrong in ({"limit": 51}, {"reason": "x"}, {"after": "x"}, {"search": "x" * 321}):
        assert world.web.get("/v1/unmatched", headers=admin, params=wrong).status_code == 400, wrong
    assert world.web.get("/v1/unmatched", headers={"Authorization": f"Bearer {world.key}"}).status_code == 403


def test_each_link_of_a_request_has_a_result_and_all_new_ones_are_removed_together(
    world: World, admin: dict[str, str]
) -> None:
    contact, person, deal = world.contact("Stray"), world.person("ann@acme.test"), world.opportunity()
    invoice = world.invoice(contact)
    world.settle()
    links = [item(world, contact, "person", person), item(world, contact, "opportunity", deal)]
    links += [item(world, contact, "lead", 9), item(world, "00000000-0000-4000-8000-000000000001", "person", person)]

    payload = post(world, admin, links).json()
    assert payload["linked"] == 2
    statuses = [result["status"] for result in payload["results"]]
    assert statuses == ["linked", "linked", "unknown record", "unknown contact"]
    world.settle()
    assert world.invoice_numbers("opportunities", deal) == [invoice.number]
    again = post(world, admin, links[:2]).json()
    assert [result["status"] for result in again["results"]] == ["already linked"] * 2

    path = f"/v1/links/{payload['batch_id']}"
    assert world.web.delete(path, headers=admin).json() == {"removed": 2}
    assert world.web.delete(path, headers=admin).json() == {"removed": 0}
    world.settle()
    assert world.invoice_numbers("opportunities", deal) == []


def test_wrong_requests_link_nothing(world: World, admin: dict[str, str]) -> None:
    contact, person = world.contact("Stray"), world.person("ann@acme.test")
    world.settle()
    good = item(world, contact, "person", person)
    wrong: Any
    for wrong in ([], [good] * 51, [{**good, "record_type": "task"}], [{**good, "record_id": "x"}], [{}], [None]):
        assert post(world, admin, wrong).status_code == 400, wrong
    assert world.web.post("/v1/links", headers=admin, content=b"{").status_code == 400
    assert world.web.delete("/v1/links/x", headers=admin).status_code in {400, 404}
    reader = {"Authorization": f"Bearer {world.key}"}
    assert post(world, reader, [good]).status_code == 403
    assert link_count() == 0


def write_file(folder: Path, *rows: str, header: str = HEADER) -> str:
    path = folder / "links.csv"
    path.write_text("\r\n".join([header, *rows]) + "\r\n", encoding="utf-8-sig")
    return str(path)


def test_a_file_is_only_listed_until_it_is_applied_and_then_once(world: World, tmp_path: Path) -> None:
    contact, company = world.contact("Zest Wholesale"), world.company()
    invoice = world.invoice(contact)
    world.settle()
    tenant = world.tenants[0]
    file = write_file(
        tmp_path, f"Acme Sales Ltd 1,{contact},company,{company}", f"{tenant},{contact},Company,{company}"
    )

    dry = patina("links", "import", file)
    assert (dry.returncode, link_count()) == (0, 0)
    assert f"line 2: would link Zest Wholesale to A company (company {company})" in dry.stdout
    assert "line 3: already linked" in dry.stdout
    last_line = dry.stdout.strip().splitlines()[-1]
    assert last_line == ("links dry run ok: 1 to link, 1 already linked. Nothing was changed; add --apply to link them")

    applied = patina("links", "import", file, "--apply")
    assert (applied.returncode, link_count()) == (0, 1)
    assert applied.stdout.strip().splitlines()[-1] == "links import ok: 1 linked, 1 already linked"
    world.settle()
    assert world.invoice_numbers("companies", company) == [invoice.number]
    repeated = patina("links", "import", file, "--apply")
    assert repeated.stdout.strip().splitlines()[-1] == "links import ok: 0 linked, 2 already linked"

    exported = list(csv.reader(io.StringIO(patina("links", "export").stdout)))
    assert exported == [HEADER.split(","), ["Acme Sales Ltd 1", contact, "company", str(company)]]


def test_a_row_with_an_error_is_named_by_its_line_and_changes_nothing(world: World, tmp_path: Path) -> None:
    contact, company = world.contact("Zest"), world.company()
    world.settle()
    name = "Acme Sales Ltd 1"
    unknown = "00000000-0000-4000-8000-000000000001"
    file = write_file(
        tmp_path,
        f"{name},{contact},company,{company}",
        f"Nobody Ltd,{contact},company,{company}",
        f"{name},x,company,{company}",
        f"{name},{contact},task,{company}",
        f"{name},{contact},company,abc",
        f"{name},{unknown},company,{company}",
        f"{name},{contact},company,999",
        f"{name}",
    )

    result = patina("links", "import", file, "--apply")
    assert (result.returncode, link_count()) == (1, 1)
    for line, message in (
        (3, 'organisation: no organisation "Nobody Ltd"'),
        (4, 'contact: "x" isn\'t a Xero contact ID'),
        (5, 'record_type: "task"'),
        (6, 'record_id: "abc" isn\'t a Copper ID'),
        (7, "the organisation has no contact with this ID"),
        (8, "Copper has no such record"),
        (9, "contact:"),
    ):
        assert f"line {line}: {message}" in result.stderr
    assert result.stderr.strip().splitlines()[-1] == "links import failed: 1 linked, 0 already linked, 7 errors"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the header lacks organisation, contact, record_type, record_id"),
        (b"organisation,contact\n", "the header lacks record_type, record_id"),
        (b"\xff\xfe", "not UTF-8"),
        (f'{HEADER}\n"open'.encode(), "not CSV"),
        (f"{HEADER}\n".encode() + b"a,b,c,d\n" * 10_001, "more than 10,000 rows"),
        (b"x" * 5_000_001, "larger than"),
    ],
)
def test_a_file_that_is_none_is_refused_as_a_whole(world: World, content: bytes, message: str) -> None:
    with pytest.raises(LinkFileError, match=message):
        link_import.read_rows(world.account, content)


def test_an_organisation_is_exported_by_a_name_that_no_spreadsheet_takes_for_a_formula(world: World) -> None:
    contact, company = world.contact("Zest"), world.company()
    world.settle()
    world.link("company", company, contact)
    with transaction() as session:
        session.execute(text("UPDATE xero_organisation SET name = '=1+1'"))
    ((organisation, *_),) = link_import.export(world.account)
    assert organisation == world.tenants[0]
    content = f"{HEADER}\n{organisation},{contact},company,{company}\n".encode()
    assert [row.error for row in link_import.read_rows(world.account, content)] == [""]
