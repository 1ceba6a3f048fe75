"""Search texts in URLs. Names and addresses are personal data, and browser histories and proxies store URLs.

So the search text in a URL is encrypted. The results page can still be reloaded, and nothing is stored on the server.
"""

from __future__ import annotations

from starlette.datastructures import FormData

from store.db.crypto import decrypt_text, encrypt_text
from web.admin import forms

MAX_SEARCH_LENGTH = 320
MAX_ENCRYPTED_SEARCH = 2_500
"""Characters; enough for the longest search of four-byte characters once it is encrypted."""
SEARCH_MAX_AGE_SECONDS = 86_400
TOO_LONG = "This search is too long. Shorten it."


def read_text(form: FormData) -> str:
    """The search text of a submitted form, which may be too long."""
    return forms.clean_line(str(form.get("q", "")))


def encrypt(account_id: int, text: str) -> str:
    """A search text for a URL of the account's pages."""
    return encrypt_text(_purpose(account_id), text)


def decrypt(account_id: int, search: str) -> str | None:
    """The text of a search in a URL; '' if there is none, None if it is more than a day old or not ours."""
    return decrypt_text(_purpose(account_id), search, max_age=SEARCH_MAX_AGE_SECONDS) if search else ""


def _purpose(account_id: int) -> str:
    return f"search {account_id}"
