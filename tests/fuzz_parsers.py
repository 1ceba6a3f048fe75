"""Coverage-guided fuzzing of the two receivers' parsers: `make fuzz-parsers ARGS="-atheris_runs=1000000"`.

Needs atheris, which is made for Linux on x86-64 and is no part of the lock: `.venv/bin/pip install atheris`. A parser
may answer with events or with `ValueError`; anything else ends the run, with the input that did it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

try:
    import atheris
except ImportError:
    raise SystemExit("atheris is not installed: .venv/bin/pip install atheris") from None

with atheris.instrument_imports(include=["webhooks", "worker.xero.wire"]):
    from webhooks.payloads import Origin, Secret, parse_json, read_delivery, read_notification

XERO = {
    "resourceId": "f8c42a2e-5d5b-4bf7-9a8b-6a1d3c4e5f60",
    "eventDateUtc": "2026-11-20T10:00:00.000",
    "eventType": "UPDATE",
    "eventCategory": "INVOICE",
    "tenantId": "b6fd0b1a-9c5e-4b61-b1a5-2a7b3f1c0d11",
}
COPPER = {"ids": [1, 2], "type": "person", "event": "update", "subscription_id": 1, "patina_secret": "s"}


def one_body(given: bytes) -> None:
    """Read a body as both vendors' receivers would: as it is, and as fields of bodies that are right otherwise."""
    data = atheris.FuzzedDataProvider(given)
    delivery = {
        "events": [_changed(data, XERO) for _ in range(data.ConsumeIntInRange(0, 3))],
        "firstEventSequence": _odd(data, 1),
        "lastEventSequence": _odd(data, 1),
    }
    bodies = [given, *(json.dumps(one).encode("utf-8", "surrogatepass") for one in (delivery, _changed(data, COPPER)))]
    for body in bodies:
        for read in (_xero, _copper):
            try:
                keys = read(body)
            except ValueError:
                continue
            assert all(len(bytes.fromhex(key)) == 32 for key in keys)


def _changed(data: Any, good: dict[str, Any]) -> dict[str, Any]:
    """The good object with some of its fields changed."""
    return {name: _odd(data, value) for name, value in good.items()}


def _odd(data: Any, good: Any) -> Any:
    """The value itself, most of the time."""
    match data.ConsumeIntInRange(0, 11):
        case 0:
            return data.ConsumeUnicode(40)
        case 1:
            return data.ConsumeInt(16)
        case 2:
            return data.ConsumeFloat()
        case 3:
            return [_odd(data, good)]
        case 4:
            return str(good)[: data.ConsumeIntInRange(0, 40)] + data.ConsumeUnicode(8)
        case 5:
            return None
    return good


def _xero(body: bytes) -> list[str]:
    delivery = read_delivery(Origin(body))
    return [event.dedupe_key for event in delivery.events] + [event.dedupe_key for event in delivery.malformed]


def _copper(body: bytes) -> list[str]:
    payload = parse_json(body)
    if not isinstance(payload, dict):
        return []
    notification = read_notification(payload, 1, Origin(body), Secret("patina_secret", "x" * 43))
    keys = [event.dedupe_key for event in notification.events]
    return keys + [malformed.dedupe_key for malformed in notification.malformed]


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_body)
    atheris.Fuzz()
