"""`patina verify`: the read model against a rebuild, once nothing is on its way from the mirror to it."""

from __future__ import annotations

import time
from collections.abc import Iterator

from store import projection
from store.database import transaction
from store.projection import Comparison
from terminal.words import counted

PATIENCE_SECONDS = 10.0
LOOK_SECONDS = 0.2


def settled(account_id: int) -> Comparison:
    """The comparison, made again while marks wait to be projected, for 10 s at most."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        with transaction() as session:
            found = projection.compare(session, account_id)
        if found.clean or not found.marks or time.monotonic() > until:
            return found
        time.sleep(LOOK_SECONDS)


def lines(found: Comparison, stale_addresses: int = 0) -> Iterator[str]:
    """What a person reads: examples, then the counts; the last line is the verdict."""
    if stale_addresses:
        addresses = counted(stale_addresses, "email address is", "email addresses are")
        yield f"{addresses} not compared by today's rules: run `patina reconcile`"
    for kind, examples in sorted(found.examples.items()):
        for example in examples:
            yield f"{kind}: {example}"
    if found.marks and not found.clean:
        yield f"{counted(found.marks, 'change')} not projected yet: is `patina worker` running?"
    more = f", {counted(found.balances, 'wrong balance')}" if found.balances else ""
    more += f", {counted(stale_addresses, 'stale email address', 'stale email addresses')}" if stale_addresses else ""
    verdict = "ok" if found.clean and not stale_addresses else "failed"
    yield f"verify {verdict}: {found.missing} missing, {found.stale} stale, {found.extra} extra{more}"
