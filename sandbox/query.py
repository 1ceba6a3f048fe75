"""Query parameters as Xero reads them: names in any case, values checked, unknown names refused."""

from __future__ import annotations

from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response


class BadQueryError(Exception):
    """A parameter that is refused; `kind` is the `Type` in Xero's error body."""

    def __init__(self, message: str, kind: str = "ValidationException") -> None:
        super().__init__(message)
        self.kind = kind


class Query:
    """A request's query. Every parameter that is read counts as known; `refuse_unknown` refuses the others by name."""

    def __init__(self, request: Request) -> None:
        self._values: dict[str, str] = {}
        self._read: set[str] = set()
        for name, value in request.query_params.multi_items():
            if name.lower() in self._values:
                raise BadQueryError(f"{name} is given twice")
            self._values[name.lower()] = value

    def refuse_unknown(self) -> None:
        """Refuse the parameters that nobody has read."""
        unknown = sorted(self._values.keys() - self._read)
        if unknown:
            raise BadQueryError(f"The sandbox does not play the query parameter {', '.join(unknown)}")

    def without(self, *names: str) -> list[tuple[str, str]]:
        """All parameters but these, to tell one query from another."""
        left_out = {name.lower() for name in names}
        return sorted((name, value) for name, value in self._values.items() if name not in left_out)

    def text(self, name: str) -> str | None:
        """A parameter as text, None when it is not there."""
        self._read.add(name.lower())
        return self._values.get(name.lower())

    def texts(self, name: str) -> list[str] | None:
        """A comma-separated parameter."""
        value = self.text(name)
        return None if value is None else [part.strip() for part in value.split(",") if part.strip()]

    def flag(self, name: str) -> bool:
        """A boolean parameter, false when it is not there."""
        value = (self.text(name) or "false").lower()
        if value not in {"true", "false", "1", "0"}:
            raise BadQueryError(f"{name} must be true or false")
        return value in {"true", "1"}

    def number(self, name: str, default: int, most: int) -> int:
        """A whole number from 1 to `most`."""
        value = self.text(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) <= 10 and 1 <= int(value) <= most):
            raise BadQueryError(f"{name} must be a whole number from 1 to {most}")
        return int(value)

    def uuid(self, name: str) -> UUID | None:
        """A GUID, None when the parameter is not there."""
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
    """400 as Xero writes it."""
    number = 16 if error.kind == "QueryParseException" else 10
    body = {"ErrorNumber": number, "Type": error.kind, "Message": str(error), "Elements": []}
    return JSONResponse(body, 400)
