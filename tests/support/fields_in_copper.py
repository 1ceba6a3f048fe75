"""Custom fields of an account in Copper: turning them on, writing them, and what the sandbox has."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from typing import Any

from services import copper_fields
from store.db.enums import FieldMeasure, RecordType
from tests.support.crm import BASE, key_headers
from tests.support.serving import wait_until
from tests.support.world import PLURAL, World
from worker.sync import field_writer

ACTOR = "the tests"
CHECKED = (FieldMeasure.OUTSTANDING, FieldMeasure.CREDIT, FieldMeasure.OPEN_INVOICES, FieldMeasure.LAST_INVOICE)


def turn_on(
    world: World,
    *measures: FieldMeasure,
    currencies: Collection[str] = ("NZD",),
    record_types: Collection[RecordType] = tuple(RecordType),
) -> None:
    """Turn on these fields, by default all of them."""
    copper_fields.turn_on(world.account, measures or tuple(FieldMeasure), currencies, record_types, actor=ACTOR)


def write(world: World) -> None:
    """Write all that is due."""
    while field_writer.write(world.account, 5.0) == 0.0:
        pass


def ask(world: World, method: str, path: str, body: Any = None) -> Any:
    """A response of the sandbox's Copper to the account's admin."""
    admin = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)
    response = world.sandbox.http.request(method, f"{BASE}/{path}", json=body, headers=key_headers(admin))
    assert response.status_code == 200, response.text
    return response.json()


def definitions(world: World) -> dict[str, dict[str, Any]]:
    """The definitions of custom fields in Copper, by key."""
    return {definition["canonical_name"]: definition for definition in ask(world, "GET", "custom_field_definitions")}


def values(world: World, record_type: str, record_id: int) -> dict[str, Any]:
    """The values of a record's custom fields in Copper by key, without the prefix; empty ones are left out."""
    keys = {definition["id"]: key.removeprefix("patina_xero_") for key, definition in definitions(world).items()}
    record = ask(world, "GET", f"{PLURAL[record_type]}/{record_id}")
    return {
        keys[entry["custom_field_definition_id"]]: entry["value"]
        for entry in record["custom_fields"]
        if entry["value"] is not None
    }


def write_calls(world: World) -> int:
    """How many calls have changed records in Copper."""
    calls = world.sandbox.state()["calls"]
    return sum(count for path, count in calls.items() if path.startswith("PUT") or "bulk_update" in path)


def wait_until_written(world: World) -> None:
    """Wait until the workers have written all that differs."""

    def is_written() -> bool:
        progress = copper_fields.get_status(world.account).progress
        return progress.pending == 0

    wait_until(is_written, seconds=60, description="fields that are written")


def check_all(world: World) -> None:
    """Check that every record in Copper has the values that follow from the invoices which the API lists for it."""
    for record_type in RecordType:
        for record_id in world.record_ids(record_type.value):
            rows = world.rows(record_type.plural, record_id)
            actual = values(world, record_type.value, record_id)
            assert actual == expected_values(rows), f"{record_type} {record_id}"


def expected_values(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The fields of `CHECKED` in NZD, from a record's rows in the API."""
    if not rows:
        return {}
    invoices = [row for row in rows if row["type"] == "ACCREC"]
    open_invoices = [row for row in invoices if row["status"] == "AUTHORISED" and Decimal(row["balance_due"]) > 0]
    credits = [row for row in rows if row["type"] != "ACCREC" and row["status"] == "AUTHORISED"]
    issued = [row["issue_date"] for row in invoices if row["status"] in {"AUTHORISED", "PAID"}]
    dates = {"last_invoice": us_date(max(issued))} if issued else {}
    return {
        "outstanding_nzd": float(sum(Decimal(row["balance_due"]) for row in open_invoices)),
        "credit_nzd": float(sum(Decimal(row["balance_due"]) for row in credits)),
        "open_invoices": len(open_invoices),
        **dates,
    }


def us_date(day: object) -> str:
    """A date as Copper writes it."""
    year, month, date = str(day).split("-")
    return f"{month}/{date}/{year}"
