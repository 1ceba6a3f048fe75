"""E-mail addresses, the one thing that matches a Copper record with a Xero contact."""

from __future__ import annotations

LONGEST = 320


def normalised(address: str | None) -> str | None:
    """`address` trimmed and casefolded, as both sides are compared; None for what is no address.

    Plus signs and dots are left alone: Ann+Billing@acme.test and ann@acme.test are two addresses.
    """
    if not address:
        return None
    plain = address.replace("\x00", "").strip().casefold()
    return plain if 3 <= len(plain) <= LONGEST and "@" in plain[1:-1] else None


def all_of(*addresses: str | None) -> frozenset[str]:
    """The normalised ones of `addresses`, each once."""
    return frozenset(plain for address in addresses if (plain := normalised(address)))
