"""Coverage-guided fuzzing of the webhook parsers: `make fuzz-parsers ARGS="-atheris_runs=1000000"`.

Needs atheris, which only supports Linux on x86-64 and is not in the lock: `.venv/bin/pip install atheris`. A parser may
return events or raise `ValueError`; anything else ends the run and prints the input.
"""

from __future__ import annotations

import json
import sys
from typing import Any

try:
    import atheris
except ImportError:
    raise SystemExit("atheris is not installed: .venv/bin/pip install atheris") from None

with atheris.instrument_imports(include=["webhooks", "worker.vendors.xero.schemas"]):
    from webhooks.payloads import Origin, Secret, parse_json, read_delivery, read_notification

XERO = {
    "resourceId": "f8c42a2e-5d5b-4bf7-9a8b-6a1d3c4e5f60",
    "eventDateUtc": "2026-11-20T10:00:00.000",
    "eventType": "UPDATE",
    "eventCategory": "INVOICE",
    "tenantId": "b6fd0b1a-9c5e-4b61-b1a5-2a7b3f1c0d11",
}
COPPER = {"ids": [1, 2], "type": "person", "event": "update", "subscription_id": 1, "patina_secret": "s"}


def fuzz_one(data_bytes: bytes) -> None:
    """Parse the input with both parsers: as a whole body, and as fields of otherwise valid bodies."""
    data = atheris.FuzzedDataProvider(data_bytes)
    delivery = {
        "events": [_with_changed_fields(data, XERO) for _ in range(data.ConsumeIntInRange(0, 3))],
        "firstEventSequence": _fuzz_value(data, 1),
        "lastEventSequence": _fuzz_value(data, 1),
    }
    bodies = [
        data_bytes,
        *(
            json.dumps(payload).encode("utf-8", "surrogatepass")
            for payload in (delivery, _with_changed_fields(data, COPPER))
        ),
    ]
    for body in bodies:
        for parse in (_xero, _copper):
            try:
                keys = parse(body)
            except ValueError:
                continue
            assert all(len(bytes.fromhex(key)) == 32 for key in keys)


def _with_changed_fields(data: Any, valid: dict[str, Any]) -> dict[str, Any]:
    """A valid object with some fields changed."""
    return {name: _fuzz_value(data, value) for name, value in valid.items()}


def _fuzz_value(data: Any, valid: Any) -> Any:
    """The value itself, or sometimes an unexpected one."""
    match data.ConsumeIntInRange(0, 11):
        case 0:
            return data.ConsumeUnicode(40)
        case 1:
            return data.ConsumeInt(16)
        case 2:
            return data.ConsumeFloat()
        case 3:
            return [_fuzz_value(data, valid)]
        case 4:
            return str(valid)[: data.ConsumeIntInRange(0, 40)] + data.ConsumeUnicode(8)
        case 5:
            return None
    return valid


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
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()
