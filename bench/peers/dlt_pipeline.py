"""Load the sandbox's Xero organisation and Copper account into PostgreSQL with dlt.

It runs in dlt's own virtual environment, by `bench.peers.dlt_peer`: `python dlt_pipeline.py XERO_URL COPPER_URL FORMAT
FOLDER DISPOSITION`. The environment has the database's address and dlt's settings by dlt's own names, and the headers
that authorise calls in XERO_HEADERS and COPPER_HEADERS as JSON. The last line of the output has the seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import dlt
from dlt.sources.rest_api import rest_api_source

XERO_PAGE_SIZE, COPPER_PAGE_SIZE = 1_000, 200
DATASET = "dlt_backfill"
DISPOSITIONS = {"append": "append", "merge": {"disposition": "merge", "strategy": "delete-insert"}}


def xero_resource(name: str, url: str, params: dict[str, str]) -> dict[str, Any]:
    """A listing of Xero, page by page; its pages tell how many there are."""
    headers = {**json.loads(os.environ["XERO_HEADERS"]), "Accept": "application/json"}
    return {
        "name": name.lower(),
        "primary_key": f"{name.removesuffix('s')}ID",
        "endpoint": {
            "path": f"{url}/api.xro/2.0/{name}",
            "headers": headers,
            "params": {**params, "pageSize": XERO_PAGE_SIZE},
            "data_selector": name,
            "paginator": {
                "type": "page_number",
                "base_page": 1,
                "page_param": "page",
                "total_path": "pagination.pageCount",
            },
        },
    }


def copper_resource(plural: str, url: str) -> dict[str, Any]:
    """A search of Copper, page by page until one is empty."""
    return {
        "name": plural,
        "primary_key": "id",
        "endpoint": {
            "path": f"{url}/{plural}/search",
            "method": "POST",
            "headers": json.loads(os.environ["COPPER_HEADERS"]),
            "json": {
                "page_number": 1,
                "page_size": COPPER_PAGE_SIZE,
                "sort_by": "date_created",
                "sort_direction": "asc",
            },
            "data_selector": "$",
            "paginator": {
                "type": "page_number",
                "base_page": 1,
                "page_body_path": "page_number",
                "total_path": None,
            },
        },
    }


def relations_resource(url: str) -> dict[str, Any]:
    """The relations of each opportunity, one call each."""
    return {
        "name": "opportunity_relations",
        "primary_key": ["_opportunities_id", "type", "id"],
        "include_from_parent": ["id"],
        "endpoint": {
            "path": f"{url}/opportunities/{{resources.opportunities.id}}/related",
            "headers": json.loads(os.environ["COPPER_HEADERS"]),
            "data_selector": "$",
            "paginator": {"type": "single_page"},
        },
    }


def run(xero_url: str, copper_url: str, file_format: str, folder: str, disposition: str) -> None:
    """Extract, normalise and load everything.

    `append` is the least that dlt can do: rows are added, their lists as JSON, and a second load would add them again.
    With `merge`, rows replace those with their ids, so that a load may be repeated, and lists become tables.
    """
    started = time.perf_counter()
    source = rest_api_source(
        {
            "client": {"base_url": xero_url},
            "resource_defaults": {"write_disposition": DISPOSITIONS[disposition], "parallelized": True},
            "resources": [
                xero_resource("Invoices", xero_url, {"summaryOnly": "true", "order": "InvoiceID ASC"}),
                xero_resource("Contacts", xero_url, {"includeArchived": "true", "order": "ContactID ASC"}),
                *[copper_resource(plural, copper_url) for plural in ("people", "leads", "companies", "opportunities")],
                relations_resource(copper_url),
            ],
        },
        name="vendors",
        max_table_nesting=0 if disposition == "append" else None,
    )
    pipeline = dlt.pipeline(
        "backfill", destination="postgres", dataset_name=DATASET, pipelines_dir=folder, progress=None
    )
    pipeline.run(source, loader_file_format=file_format)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    run(*sys.argv[1:])
