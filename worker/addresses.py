"""E-mail addresses, the one thing that matches a Copper record with a Xero contact.

They are compared as people mean them, whatever they typed or pasted: blanks and invisible characters go, lists are
taken apart, a scheme and a name around the address are left out. The local part is compared in lower case, the domain
in its IDNA form (UTS 46, non-transitional), so that `bücher.test` and `xn--bcher-kva.test` are one domain, and
`straße.test` and `strasse.test` are two. Nothing else is folded: Ann+Billing@acme.test and ann@acme.test differ.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from urllib.parse import unquote

import idna

MAX_ADDRESS = 320
MAX_DOMAIN = 253
MAX_TEXT = 20_000
MAX_ADDRESSES = 50

# A quoted local part may hold blanks and separators; elsewhere quotes and brackets stand around, not in an address.
SEPARATORS = r'\s,;<>()"\uFF0C\uFF1B\u3001'
DOUBLE_QUOTES = r"\u201C\u201D\u201E\u00AB\u00BB"
TOKEN = re.compile(rf'"(?:[^"\\\n]|\\.){{0,64}}"@[^{SEPARATORS}]+|[^{SEPARATORS}{DOUBLE_QUOTES}]+')
ASCII_DOMAIN = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
ADDRESS_LITERAL = re.compile(r"\[[a-z0-9.:-]+\]")
MAILTO = re.compile(r"mailto:", re.IGNORECASE)
# Characters without a shape that Unicode does not count among its format characters (category Cf).
SHAPELESS = {
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0, 0xFFFC),
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
    *range(0xE0000, 0xE1000),
}
QUOTES = "'`\u2018\u2019\u201a\u2039\u203a"
AFTER = QUOTES + ".:!?"
NOT_IN_LOCAL_PART = re.compile(rf"[{SEPARATORS}@:]")


def addresses_of(*texts: str | None) -> dict[str, str]:
    """The addresses in some texts as they are compared, each once, with what was typed; at most 50.

    Of each text the first 20,000 characters are looked at.
    """
    found: dict[str, str] = {}
    for text in texts:
        for token in TOKEN.findall((text or "")[:MAX_TEXT]):
            address = _compared(token)
            if address is not None and len(found) < MAX_ADDRESSES:
                found.setdefault(address, _typed(token, address))
    return found


def normalised(text: str | None) -> str | None:
    """The one address in a text, as it is compared; None where there is none, or more than one."""
    found = list(addresses_of(text))
    return found[0] if len(found) == 1 else None


def mentions(text: str, address: str) -> bool:
    """Whether a text of any length has an address in it, as it is compared."""
    if _standing_alone(address).search(text.lower()):
        return True
    return any(_compared(token) == address for token in TOKEN.findall(text) if "@" in token)


@lru_cache(maxsize=100)
def _standing_alone(address: str) -> re.Pattern[str]:
    """The address where nothing before or after it makes another one of it."""
    return re.compile(rf"(?<![\w.+%-]){re.escape(address)}(?![\w-])(?![.]\w)")


def visible(typed: str) -> str:
    """What was typed, with a name in place of each character that cannot be seen: `ann<U+200B>@acme.test`."""
    return "".join(f"<U+{ord(one):04X}>" if _is_invisible(one) else one for one in typed)


def _typed(token: str, address: str) -> str:
    """What was typed, without the parameters of a `mailto:`, which may hold others' addresses."""
    typed = token.partition("?")[0] if MAILTO.match(_without_invisible(token)) else token
    return typed if len(typed) <= MAX_ADDRESS else address


def _compared(token: str) -> str | None:
    if "@" not in token:
        return None
    plain = _without_invisible(token)
    if MAILTO.match(plain):
        plain = _without_invisible(unquote(plain.partition("?")[0]))
    typed, _, rest = plain.rpartition("@")
    domain = rest.rstrip(AFTER)
    is_quoted = any(one in QUOTES for one in rest[len(domain) :])
    local, compared = _local_part(typed, is_quoted=is_quoted), _domain(domain)
    if local is None or compared is None:
        return None
    address = f"{local}@{compared}"
    return address if len(address) <= MAX_ADDRESS else None


def _local_part(typed: str, *, is_quoted: bool) -> str | None:
    """The local part in lower case, without a scheme or a label before it; None where it cannot be one."""
    if not (typed.startswith('"') and typed.endswith('"') and len(typed) > 2):
        scheme, _, typed = typed.rpartition(":")
        typed = typed.removeprefix("//") if scheme else typed
        typed = typed.lstrip(QUOTES) if is_quoted else typed
        if not typed or NOT_IN_LOCAL_PART.search(typed):
            return None
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", typed).lower())


@lru_cache(maxsize=10_000)
def _domain(typed: str) -> str | None:
    """The domain as it is compared; None where it cannot be one.

    What IDNA 2008 refuses is not lost: a label such as an emoji keeps its UTS 46 form, and one with an underscore is
    compared in lower case.
    """
    lower = typed.lower()
    if len(lower) > MAX_DOMAIN:
        return None
    if ASCII_DOMAIN.fullmatch(lower):
        return _ascii_form(lower) if "xn--" in lower else lower
    if ADDRESS_LITERAL.fullmatch(lower):
        return lower
    if lower.isascii():
        return None
    return _ascii_form(typed)


def _ascii_form(typed: str) -> str | None:
    try:
        return idna.encode(typed, uts46=True, transitional=False).decode("ascii").rstrip(".")
    except (idna.IDNAError, UnicodeError):
        pass
    try:
        mapped = idna.uts46_remap(typed, std3_rules=False, transitional=False)
        labels = [_label(one) for one in mapped.split(".")]
    except (idna.IDNAError, UnicodeError):
        return None
    domain = ".".join(labels)
    return domain if ASCII_DOMAIN.fullmatch(domain) and len(domain) <= MAX_DOMAIN else None


def _label(mapped: str) -> str:
    return mapped.lower() if mapped.isascii() else "xn--" + mapped.encode("punycode").decode("ascii").lower()


def _without_invisible(token: str) -> str:
    if token.isascii() and token.isprintable():
        return token
    return "".join(one for one in token if not _is_invisible(one))


def _is_invisible(one: str) -> bool:
    return ord(one) in SHAPELESS or unicodedata.category(one) in {"Cc", "Cf", "Cs"}
