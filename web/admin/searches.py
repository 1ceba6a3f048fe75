"""Search texts in URLs. Names and addresses are personal data, and browser histories and proxies store URLs.

So the search text in a URL is encrypted. The results page can still be reloaded, and nothing is stored on the server.
"""

from __future__ import annotations

from enum import StrEnum

from starlette.datastructures import FormData

from store.db.crypto import decrypt_text, encrypt_text
from store.db.database import Session
from store.read_model import match_reports
from store.read_model.match_reports import RecordSearchResult
from web.admin import forms
from worker.vendors.addresses import normalise_address

MAX_SEARCH_LENGTH = 320
MAX_ENCRYPTED_SEARCH = 2_500
"""Characters; enough for the longest search of four-byte characters once it is encrypted."""
SEARCH_MAX_AGE_SECONDS = 86_400
TOO_LONG = "This search is too long. Shorten it."
EXPIRED = "This search has expired. Search again."


class Topic(StrEnum):
    """What a search is for. The text of one in a URL is not accepted for another."""

    RECORDS = "record"
    INVOICES = "invoice"
    OPPORTUNITIES = "opportunity"
    RECEIVABLES = "receivables"


def read_text(form: FormData) -> str:
    """The search text of a submitted form, which may be too long."""
    return forms.clean_line(str(form.get("q", "")))


def encrypt(topic: Topic, account_id: int, text: str) -> str:
    """A search text for a URL of the account's pages; '' if there is none."""
    return encrypt_text(_purpose(topic, account_id), text) if text else ""


def decrypt(topic: Topic, account_id: int, search: str) -> str | None:
    """The text of a search in a URL; '' if there is none, None if it is more than a day old or not ours."""
    return decrypt_text(_purpose(topic, account_id), search, max_age=SEARCH_MAX_AGE_SECONDS) if search else ""


def _purpose(topic: Topic, account_id: int) -> str:
    return f"{topic} search {account_id}"


def find_records(session: Session, account_id: int, text: str, limit: int) -> list[RecordSearchResult]:
    """The first records that a search text finds, by name, address, Copper ID or invoice number; none for ''."""
    if not text:
        return []
    return match_reports.search_records(session, account_id, text, limit, normalise_address(text))
