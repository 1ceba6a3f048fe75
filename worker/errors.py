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


class EndpointRefusedError(VendorError):
    """The credential works, but does not open this endpoint: a scope, a plan or a role is missing.

    Only an admin can help, and all other work goes on. `endpoint` is the vendor's name of it.
    """

    def __init__(self, said: str, endpoint: str) -> None:
        super().__init__(said)
        self.endpoint = endpoint


class InvalidRequestError(VendorError):
    """The vendor does not accept what was asked for (400, 422)."""


class FilterRefusedError(VendorError):
    """The vendor refuses a search's filter, or ignores it: what changed must be found without it."""


class NotThereError(VendorError):
    """The vendor has no such record (404)."""


class UnreadableError(VendorError):
    """The vendor's answer is JSON, but not what was asked for: asking again brings the same."""


class NotConnectedError(Exception):
    """What was asked for needs a connection that isn't there; the text names it and what helps."""
