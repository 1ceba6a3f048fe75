"""Checks for every request: no NUL characters, no unsupported charset, no unknown host name."""

from __future__ import annotations

from email.message import Message

from starlette.types import Scope

from runtime.settings import settings

NUL_MESSAGE = "This request contains a NUL character, which is not allowed. Remove it and try again."
CHARSET_MESSAGE = "Send forms in UTF-8."
URLENCODED, MULTIPART = b"application/x-www-form-urlencoded", b"multipart/form-data"
NUL, ENCODED_NUL = b"\x00", b"%00"
# Health checks and scrapers use any host name; webhooks are authenticated.
ANY_HOST_PATHS = ("/healthz", "/readyz", "/metrics", "/webhooks/")


def has_nul_in_url(scope: Scope) -> bool:
    """Whether the path or the query contains a NUL."""
    return "\x00" in scope["path"] or ENCODED_NUL in scope["query_string"]


def is_allowed_host(scope: Scope, hosts: list[bytes]) -> bool:
    """Whether a request has exactly one Host header, with an allowed name."""
    if scope["path"].startswith(ANY_HOST_PATHS):
        return True
    return len(hosts) == 1 and _name(hosts[0].decode("latin-1")) in settings().accepted_hosts


def _name(host: str) -> str:
    """The host name in a Host header, without the port."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower().removesuffix(".")


def unknown_host_message() -> str:
    """The error message for an unknown host."""
    return f"This is not the address of Patina. Open {settings().public_url}, or ask its operator to set ALLOWED_HOSTS."


class FormScanner:
    """Scans the body of a form, chunk by chunk, for text that is not allowed in a field."""

    def __init__(self, content_type: bytes) -> None:
        media_type = content_type.split(b";")[0].strip().lower()
        self._is_urlencoded = media_type == URLENCODED
        self._is_form = self._is_urlencoded or media_type == MULTIPART
        self._tail = b""
        self.has_unsupported_charset = self._is_form and _charset(content_type) not in {"", "utf-8", "utf8"}

    def has_nul(self, chunk: bytes) -> bool:
        """Whether the form contains a NUL, as far as it has arrived."""
        if not self._is_form:
            return False
        text = self._tail + chunk
        self._tail = text[-2:]
        return NUL in text or (self._is_urlencoded and ENCODED_NUL in text)


def _charset(content_type: bytes) -> str:
    message = Message()
    message["content-type"] = content_type.decode("latin-1")
    return str(message.get_param("charset") or "").lower()
