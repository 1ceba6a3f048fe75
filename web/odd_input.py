"""What no request may hold, whatever it asks for: a NUL, text in an odd encoding, a host name that is not ours."""

from __future__ import annotations

from email.message import Message

from starlette.types import Scope

from runtime.settings import settings

NUL_TEXT = "This request has a NUL character in it, which no name, search or address can have. Remove it and try again."
CHARSET_TEXT = "Send forms in UTF-8."
URLENCODED, MULTIPART = b"application/x-www-form-urlencoded", b"multipart/form-data"
NUL, ENCODED_NUL = b"\x00", b"%00"
# Health checks and scrapers ask by whatever address they know; webhooks prove themselves.
ANY_HOST = ("/healthz", "/readyz", "/metrics", "/webhooks/")


def is_odd_address(scope: Scope) -> bool:
    """Whether a NUL stands in the path or the query."""
    return "\x00" in scope["path"] or ENCODED_NUL in scope["query_string"]


def is_known_host(scope: Scope, hosts: list[bytes]) -> bool:
    """Whether a request asks for one of our hosts, and for one only."""
    if scope["path"].startswith(ANY_HOST):
        return True
    return len(hosts) == 1 and _name(hosts[0].decode("latin-1")) in settings().hosts


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower().removesuffix(".")


def host_text() -> str:
    """What to say of another host."""
    return f"This is not the address of Patina. Open {settings().public_url}, or have its operator set ALLOWED_HOSTS."


class FormText:
    """Looks through the body of a form, piece by piece, for text that no field may have."""

    def __init__(self, content_type: bytes) -> None:
        kind = content_type.split(b";")[0].strip().lower()
        self._is_urlencoded = kind == URLENCODED
        self._is_form = self._is_urlencoded or kind == MULTIPART
        self._tail = b""
        self.has_odd_charset = self._is_form and _charset(content_type) not in {"", "utf-8", "utf8"}

    def has_nul(self, piece: bytes) -> bool:
        """Whether a NUL stands in the form, as far as it has come."""
        if not self._is_form:
            return False
        text = self._tail + piece
        self._tail = text[-2:]
        return NUL in text or (self._is_urlencoded and ENCODED_NUL in text)


def _charset(content_type: bytes) -> str:
    message = Message()
    message["content-type"] = content_type.decode("latin-1")
    return str(message.get_param("charset") or "").lower()
