"""Normalisation of e-mail addresses, by which Copper records are matched with Xero contacts.

Addresses are compared as people mean them, whatever was typed or pasted: white space and invisible characters are
removed, lists are split, a scheme and a name around the address are dropped, and HTML character references, which are
pasted with the source of a page, are what they stand for. The local part is compared in lower case,
the domain in its IDNA form (UTS 46, non-transitional). So `bücher.test` and `xn--bcher-kva.test` are one domain, and
`straße.test` and `strasse.test` are two. Nothing else is folded: Ann+Billing@acme.test and ann@acme.test differ.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from html import unescape
from urllib.parse import unquote

import idna

MAX_ADDRESS = 320
MAX_DOMAIN = 253
MAX_TEXT = 20_000
MAX_ADDRESSES = 50

# A quoted local part may contain white space and separators. Otherwise quotes and brackets enclose an address.
SEPARATORS = r'\s,;<>()"\uFF0C\uFF1B\u3001'
DOUBLE_QUOTES = r"\u201C\u201D\u201E\u00AB\u00BB"
# `a&amp;b@acme.test`: the semicolon of a character reference separates nothing. It may have been escaped repeatedly.
REFERENCE = re.compile(r"&(?:amp;)*(amp|lt|gt|quot|apos|nbsp|shy|#[0-9]{1,7}|#x[0-9a-f]{1,6});", re.IGNORECASE)
TOKEN = re.compile(
    rf'"(?:[^"\\\n]|\\.){{0,64}}"@[^{SEPARATORS}]+|(?:(?i:{REFERENCE.pattern})|[^{SEPARATORS}{DOUBLE_QUOTES}])+'
)
ASCII_DOMAIN = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
ADDRESS_LITERAL = re.compile(r"\[[a-z0-9.:-]+\]")
MAILTO = re.compile(r"mailto:", re.IGNORECASE)
# Invisible characters that are not in Unicode's category of format characters (Cf).
INVISIBLE = {
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0, 0xFFFC),
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
    *range(0xE0000, 0xE1000),
}
QUOTES = "'`\u2018\u2019\u201a\u2039\u203a"
TRAILING_PUNCTUATION = QUOTES + ".:!?"
NOT_IN_LOCAL_PART = re.compile(rf"[{SEPARATORS}@:]")


def extract_addresses(*texts: str | None) -> dict[str, str]:
    """The normalised addresses in some texts, at most 50, each with the text that was typed.

    Only the first 20,000 characters of each text are searched.
    """
    typed_by_address: dict[str, str] = {}
    for text in texts:
        for token in _tokens((text or "")[:MAX_TEXT]):
            for address, typed in _addresses_in(token):
                if len(typed_by_address) < MAX_ADDRESSES:
                    typed_by_address.setdefault(address, _typed_text(typed, address))
    return typed_by_address


def normalise_address(text: str | None) -> str | None:
    """The normalised address in a text; None if there is none, or more than one."""
    addresses = list(extract_addresses(text))
    return addresses[0] if len(addresses) == 1 else None


def normalise_domain(text: str | None) -> str | None:
    """The normalised domain in a text such as `acme.test` or `@Acme.Test.`; None if there is none, or more than one."""
    typed = _strip_invisible((text or "")[:MAX_TEXT]).strip().removeprefix("@").rstrip(TRAILING_PUNCTUATION)
    domain = _normalise_domain(typed)
    return domain if domain and "." in domain and not ADDRESS_LITERAL.fullmatch(domain) else None


def contains_address(text: str, address: str) -> bool:
    """Whether a text of any length contains a normalised address."""
    if _whole_address(address).search(text.lower()):
        return True
    return any(address in dict(_addresses_in(token)) for token in _tokens(text))


@lru_cache(maxsize=100)
def _whole_address(address: str) -> re.Pattern[str]:
    """A pattern of the address that does not match inside a longer address."""
    return re.compile(rf"(?<![\w.+%-]){re.escape(address)}(?![\w-])(?![.]\w)")


def escape_invisible(typed: str) -> str:
    """What was typed, with invisible characters replaced by their code points: `ann<U+200B>@acme.test`."""
    return "".join(f"<U+{ord(char):04X}>" if _is_invisible(char) else char for char in typed)


def _typed_text(token: str, address: str) -> str:
    """What was typed, without the parameters of a `mailto:`, which may contain other people's addresses."""
    typed = token.partition("?")[0] if MAILTO.match(_strip_invisible(token)) else token
    return typed if len(typed) <= MAX_ADDRESS else address


def _tokens(text: str) -> list[str]:
    """The parts of a list, each as it was typed."""
    return [match[0] for match in TOKEN.finditer(text)]


def _addresses_in(token: str) -> list[tuple[str, str]]:
    """The normalised addresses in one part of a list, each with what was typed.

    There are several if the part's separators are character references.
    """
    parts = [token]
    if "&" in token and not token.startswith('"'):
        parts = _tokens(REFERENCE.sub(lambda match: unescape(f"&{match[1].lower()};"), token))
    addresses = [(address, part) for part in parts if (address := _normalise_token(part)) is not None]
    return [(addresses[0][0], token)] if len(addresses) == 1 else addresses


def _normalise_token(token: str) -> str | None:
    if "@" not in token:
        return None
    text = _strip_invisible(token)
    if MAILTO.match(text):
        text = _strip_invisible(unquote(text.partition("?")[0]))
    typed_local, _, rest = text.rpartition("@")
    typed_domain = rest.rstrip(TRAILING_PUNCTUATION)
    is_quoted = any(char in QUOTES for char in rest[len(typed_domain) :])
    local, domain = _normalise_local_part(typed_local, is_quoted=is_quoted), _normalise_domain(typed_domain)
    if local is None or domain is None:
        return None
    address = f"{local}@{domain}"
    return address if len(address) <= MAX_ADDRESS else None


def _normalise_local_part(typed: str, *, is_quoted: bool) -> str | None:
    """The local part in lower case, without a scheme or a label before it; None if it is invalid."""
    if not (typed.startswith('"') and typed.endswith('"') and len(typed) > 2):
        scheme, _, typed = typed.rpartition(":")
        typed = typed.removeprefix("//") if scheme else typed
        typed = typed.lstrip(QUOTES) if is_quoted else typed
        if not typed or NOT_IN_LOCAL_PART.search(typed):
            return None
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", typed).lower())


@lru_cache(maxsize=10_000)
def _normalise_domain(typed: str) -> str | None:
    """The normalised domain; None if it is invalid.

    Labels that IDNA 2008 rejects are kept: an emoji in its UTS 46 form, one with an underscore in lower case.
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
        labels = [_ascii_label(label) for label in mapped.split(".")]
    except (idna.IDNAError, UnicodeError):
        return None
    domain = ".".join(labels)
    return domain if ASCII_DOMAIN.fullmatch(domain) and len(domain) <= MAX_DOMAIN else None


def _ascii_label(mapped: str) -> str:
    return mapped.lower() if mapped.isascii() else "xn--" + mapped.encode("punycode").decode("ascii").lower()


def _strip_invisible(token: str) -> str:
    if token.isascii() and token.isprintable():
        return token
    return "".join(char for char in token if not _is_invisible(char))


def _is_invisible(char: str) -> bool:
    return ord(char) in INVISIBLE or unicodedata.category(char) in {"Cc", "Cf", "Cs"}
