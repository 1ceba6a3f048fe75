"""Empty the custom fields of records in Copper for an account that no longer exists here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from store.db.enums import RecordType
from worker.vendors.copper.client import BULK_INTERVAL_SECONDS, BULK_SIZE, CopperClient
from worker.vendors.errors import AuthorizationLostError, TransientError, VendorError

WrittenRecord = tuple[str, int, list[int]]
"""The type and the id of a record, and the definitions of the fields that were written."""


def clear_records(client: CopperClient, records: Sequence[WrittenRecord], seconds: float) -> list[WrittenRecord]:
    """Empty the fields of records, sorted by type, for about `seconds`; return those that are left.

    What Copper refuses is skipped: nobody is left to be told. Raises `TransientError` if not a single call succeeds.
    """
    remaining, deadline, has_bulk = list(records), time.monotonic() + seconds, set(RecordType)
    while remaining and time.monotonic() < deadline:
        record_type = RecordType(remaining[0][0])
        _, same_type = next(groupby(remaining[:BULK_SIZE], key=itemgetter(0)))
        batch = list(same_type)
        try:
            if record_type in has_bulk:
                values = {record_id: dict.fromkeys(definitions) for _, record_id, definitions in batch}
                client.write_fields_in_bulk(record_type, values)
                time.sleep(BULK_INTERVAL_SECONDS)
            else:
                batch = batch[:1]
                _, record_id, definitions = batch[0]
                client.write_fields(record_type, record_id, dict.fromkeys(definitions))
        except AuthorizationLostError:
            raise
        except TransientError:
            if len(remaining) == len(records):
                raise
            break
        except VendorError:
            if record_type in has_bulk:
                # Copper has no such call for this type, or refuses it: its records are emptied one by one.
                has_bulk.discard(record_type)
                continue
        del remaining[: len(batch)]
    return remaining
