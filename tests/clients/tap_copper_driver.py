"""Reads from a base URL with tap-copper, and prints the records of each stream as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from singer import Transformer
from singer.transform import UNIX_MILLISECONDS_INTEGER_DATETIME_PARSING
from tap_copper.client import Client
from tap_copper.discover import discover
from tap_copper.exceptions import CopperError
from tap_copper.streams import STREAMS
from tap_copper.streams.abstracts import BaseStream


def read_stream(stream: BaseStream) -> list[dict[str, Any]]:
    """The records of a stream, each transformed by its schema as the tap does it."""
    with Transformer(integer_datetime_fmt=UNIX_MILLISECONDS_INTEGER_DATETIME_PARSING) as transformer:
        return [
            transformer.transform(stream._normalize_record_dates(record), stream.schema, stream.metadata)
            for record in stream.get_records()
        ]


def main(base: str, key: str, email: str, page_size: int) -> dict[str, Any]:
    config = {"api_key": key, "user_email": email, "start_date": "2020-01-01T00:00:00Z", "page_size": page_size}
    client = Client(config)
    client.base_url = f"{base}/copper/developer_api/v1"
    catalog = discover(config)
    streams = ("people", "leads", "companies", "opportunities", "users")
    records: dict[str, Any] = {name: read_stream(STREAMS[name](client, catalog.get_stream(name))) for name in streams}
    try:
        read_stream(STREAMS["account"](client, catalog.get_stream("account")))
    except CopperError as error:
        records["account"] = f"{type(error).__name__}: {error}"
    return records


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1])), default=str))
