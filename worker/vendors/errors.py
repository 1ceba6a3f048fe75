"""What can go wrong with a vendor, in terms of what a job can do about it."""

from __future__ import annotations


class VendorError(Exception):
    """A vendor refused or failed. `retry_after` is in seconds if a retry can help, and None if it cannot."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TransientError(VendorError):
    """A failure that passes: an overload, a broken connection, a limit.

    `ambiguous` means that the request itself may be the cause (a 500). If it was the only one in its call, the failure
    then counts as an attempt.
    """

    def __init__(self, message: str, retry_after: float | None = None, *, ambiguous: bool = False) -> None:
        super().__init__(message, retry_after)
        self.ambiguous = ambiguous


class BudgetExhaustedError(TransientError):
    """The shared call budget allows no call now; nothing was sent. `retry_after` is always set."""

    retry_after: float


class AuthorizationLostError(VendorError):
    """The grant or API key is no longer valid: only an admin can reconnect."""


class EndpointRefusedError(VendorError):
    """The credential works, but not for this endpoint: a scope, a plan or a role is missing.

    Only an admin can help; all other work continues. `endpoint` is the vendor's name of it, `detail` the vendor's own
    message, '' if it gave none.
    """

    def __init__(self, message: str, endpoint: str, detail: str = "") -> None:
        super().__init__(message)
        self.endpoint = endpoint
        self.detail = detail


class InvalidRequestError(VendorError):
    """The vendor rejected the request as invalid (400, 422); `detail` is its own message, '' if it gave none."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class UnsupportedFilterError(VendorError):
    """The vendor rejects or ignores a search filter: changes must be found without it."""


class NotFoundError(VendorError):
    """The vendor has no such record (404)."""


class UnexpectedResponseError(VendorError):
    """The response is valid JSON, but does not contain what was requested. A retry would return the same."""


class NotConnectedError(Exception):
    """The operation needs a connection that does not exist; the message names it and says what helps."""
