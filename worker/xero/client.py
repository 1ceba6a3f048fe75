"""Calls to Xero's Accounting API for one organisation, or one grant's connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import requests
import structlog
from pydantic import BaseModel

from runtime.settings import settings
from store import accounts
from store.accounts import Organisation
from store.database import transaction
from worker.vendor import NotThereError, ReconnectNeededError, VendorError, call, json_of, parse, timeouts
from worker.xero import oauth
from worker.xero.wire import WireConnection, WireContact, WireInvoice, WireOrganisation

log = structlog.get_logger()
IDS_PER_CALL = 40
PAGE_SIZE = 1_000
Wire = TypeVar("Wire", bound=BaseModel)


@dataclass(frozen=True)
class Answer(Generic[Wire]):
    """What one or more calls brought: items, when the first call began, and what could not be read."""

    items: list[Wire]
    fetched_at: datetime
    pages: int | None = None
    total: int | None = None
    unreadable: dict[str, str] = field(default_factory=dict)


class XeroClient:
    """Xero, as one organisation of one account sees it."""

    def __init__(self, organisation: Organisation) -> None:
        self.organisation = organisation

    def _get(self, path: str, params: dict[str, str], headers: dict[str, str] | None = None) -> Any:
        """One call; a token that Xero refuses is refreshed once, a lost connection marks the grant."""
        place = self.organisation
        refused: str | None = None
        for _ in range(2):
            held = oauth.fresh(place.account_id, place.grant_id, unlike=refused)
            answer = self._call(held.token, path, params, headers or {})
            if answer.status_code != 401:
                return self._body(answer)
            refused = held.token["access_token"]
        raise VendorError("Xero refuses a token it has just given", 300)

    def _call(
        self, token: dict[str, Any], path: str, params: dict[str, str], headers: dict[str, str]
    ) -> requests.Response:
        session = oauth.session(token)
        session.headers["Xero-Tenant-Id"] = str(self.organisation.tenant_id)
        url = f"{settings().xero_api_url}/api.xro/2.0/{path}"
        return call(lambda: session.get(url, params=params, headers=headers, timeout=timeouts(), stream=True))

    def _body(self, answer: requests.Response) -> Any:
        if answer.status_code == 403:
            place = self.organisation
            mark_lost(place.account_id, place.grant_id)
            raise ReconnectNeededError("Xero says that this organisation is no longer connected")
        if answer.status_code == 304:
            return {}
        if answer.status_code >= 400:
            raise VendorError(f"Xero answered {answer.status_code}")
        log.debug(
            "xero.answered",
            organisation=self.organisation.id,
            status=answer.status_code,
            bytes=len(answer.content),
        )
        return json_of(answer)

    def organisation_details(self) -> WireOrganisation:
        """The organisation's name, short code and base currency."""
        return WireOrganisation.model_validate(self._get("Organisation", {})["Organisations"][0])

    def invoices_by_id(self, ids: Sequence[UUID]) -> Answer[WireInvoice]:
        """The invoices among `ids` that exist, 40 a call, in any state."""
        return self._by_id("Invoices", WireInvoice, "InvoiceID", ids, {"summaryOnly": "true"})

    def contacts_by_id(self, ids: Sequence[UUID]) -> Answer[WireContact]:
        """The contacts among `ids` that exist, 40 a call, archived ones too."""
        return self._by_id("Contacts", WireContact, "ContactID", ids, {"includeArchived": "true"})

    def _by_id(
        self, what: str, model: type[Wire], key: str, ids: Sequence[UUID], params: dict[str, str]
    ) -> Answer[Wire]:
        answer: Answer[Wire] = Answer([], datetime.now(UTC))
        unique = sorted(set(ids))
        for start in range(0, len(unique), IDS_PER_CALL):
            chunk = ",".join(str(one) for one in unique[start : start + IDS_PER_CALL])
            paged = {**params, "IDs": chunk, "page": "1", "pageSize": str(IDS_PER_CALL)}
            try:
                raw = self._get(what, paged)
            except NotThereError:
                continue
            good, bad = parse(model, raw.get(what) or [], key)
            answer.items.extend(good)
            answer.unreadable.update(bad)
        return answer

    def invoices(self, page: int, *, contacts: Sequence[UUID] = ()) -> Answer[WireInvoice]:
        """A page of all invoices (or those of at most 40 contacts), in order of id.

        Ids do not change and invoices are never removed, so pages do not shift under the reader.
        """
        params = {"summaryOnly": "true", "order": "InvoiceID ASC"}
        if contacts:
            params["ContactIDs"] = ",".join(str(one) for one in contacts)
        return self._page("Invoices", WireInvoice, "InvoiceID", page, params)

    def contacts(self, page: int) -> Answer[WireContact]:
        """A page of all contacts, archived ones too, in order of id."""
        params = {"includeArchived": "true", "order": "ContactID ASC"}
        return self._page("Contacts", WireContact, "ContactID", page, params)

    def _page(self, what: str, model: type[Wire], key: str, page: int, params: dict[str, str]) -> Answer[Wire]:
        began = datetime.now(UTC)
        raw = self._get(what, {**params, "page": str(page), "pageSize": str(PAGE_SIZE)})
        good, bad = parse(model, raw.get(what) or [], key)
        shape = raw.get("pagination") or {}
        return Answer(good, began, shape.get("pageCount"), shape.get("itemCount"), bad)


def mark_lost(account_id: int, grant_id: int) -> None:
    """Remember that only an admin can bring this grant back."""
    with transaction() as session:
        accounts.mark_grant(session, account_id, grant_id, "reconnect")
    log.warning("grant.lost", account=account_id, grant=grant_id)


def connections(token: dict[str, Any]) -> list[WireConnection]:
    """The organisations that a token set covers; practices are left out."""
    session = oauth.session(token)
    answer = call(lambda: session.get(f"{settings().xero_api_url}/connections", timeout=timeouts(), stream=True))
    if answer.status_code != 200:
        raise VendorError(f"Xero answered {answer.status_code} to the list of connections")
    found = [WireConnection.model_validate(item) for item in json_of(answer)]
    return [one for one in found if one.tenant_type == "ORGANISATION"]
