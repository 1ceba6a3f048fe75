"""What can go wrong with a vendor, as a job can act upon it."""

from __future__ import annotations


class VendorError(Exception):
    """A vendor refused or failed; `retry_after` in seconds where waiting helps, None where it does not."""

    def __init__(self, said: str, retry_after: float | None = None) -> None:
        super().__init__(said)
        self.retry_after = retry_after


class PassingError(VendorError):
    """A failure that goes away: an overload, a broken connection, a limit.

    `suspect` says that it may as well be what was asked for (a 500): alone in a call, it counts as a try.
    """

    def __init__(self, said: str, retry_after: float | None = None, *, suspect: bool = False) -> None:
        super().__init__(said, retry_after)
        self.suspect = suspect


class BudgetSpentError(PassingError):
    """The shared call budget allows no call now; nothing was sent. `retry_after` is always given."""

    retry_after: float


class ReconnectNeededError(VendorError):
    """The grant or key is gone: only an admin can help."""


class NotThereError(VendorError):
    """The vendor has no such record (404)."""


class NotConnectedError(Exception):
    """What was asked for needs a connection that isn't there; the text names it and what helps."""
