"""Query parameters as Xero reads them: names in any case, values validated, unknown names refused."""

from __future__ import annotations

from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response


class BadQueryError(Exception):
    """A refused parameter; `error_type` is the `Type` in Xero's error body."""

    def __init__(self, message: str, error_type: str = "ValidationException") -> None:
        super().__init__(message)
        self.error_type = error_type


class Query:
    """The query parameters of a request.

    Every parameter that is read counts as supported; `refuse_unknown` refuses the others by name.
    """

    def __init__(self, request: Request) -> None:
        self._values: dict[str, str] = {}
        self._read_names: set[str] = set()
        for name, value in request.query_params.multi_items():
            if name.lower() in self._values:
                raise BadQueryError(f"{name} is given twice")
            self._values[name.lower()] = value

    def refuse_unknown(self) -> None:
        """Refuse the parameters that were not read."""
        unknown = sorted(self._values.keys() - self._read_names)
        if unknown:
            raise BadQueryError(f"The sandbox does not support the query parameter {', '.join(unknown)}")

    def without(self, *names: str) -> list[tuple[str, str]]:
        """All parameters except these, as a cache key."""
        excluded = {name.lower() for name in names}
        return sorted((name, value) for name, value in self._values.items() if name not in excluded)

    def text(self, name: str) -> str | None:
        """A parameter as text; None when it is missing."""
        self._read_names.add(name.lower())
        return self._values.get(name.lower())

    def texts(self, name: str) -> list[str] | None:
        """A comma-separated parameter."""
        value = self.text(name)
        return None if value is None else [part.strip() for part in value.split(",") if part.strip()]

    def flag(self, name: str) -> bool:
        """A boolean parameter; false when it is missing."""
        value = (self.text(name) or "false").lower()
        if value not in {"true", "false", "1", "0"}:
            raise BadQueryError(f"{name} must be true or false")
        return value in {"true", "1"}

    def number(self, name: str, default: int, maximum: int) -> int:
        """A whole number from 1 to `maximum`."""
        value = self.text(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) <= 10 and 1 <= int(value) <= maximum):
            raise BadQueryError(f"{name} must be a whole number from 1 to {maximum}")
        return int(value)

    def uuid(self, name: str) -> UUID | None:
        """A GUID; None when the parameter is missing."""
        value = self.text(name)
        try:
            return None if value is None else UUID(value)
        except ValueError:
            raise BadQueryError(f"{name} is not a GUID") from None

    def uuids(self, name: str) -> set[UUID] | None:
        """A comma-separated list of GUIDs."""
        values = self.texts(name)
        try:
            return None if values is None else {UUID(value) for value in values}
        except ValueError:
            raise BadQueryError(f"{name} is not a list of GUIDs") from None


def bad_query(error: BadQueryError) -> Response:
    """Xero's 400 for a bad query."""
    number = 16 if error.error_type == "QueryParseException" else 10
    body = {"ErrorNumber": number, "Type": error.error_type, "Message": str(error), "Elements": []}
    return JSONResponse(body, 400)
