"""Calls to Copper's developer API with an account's key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import requests
import structlog
from pydantic import BaseModel

from runtime.settings import settings
from store import accounts
from store.accounts import CopperAccess
from store.database import transaction
from store.mirror import RelationRow
from store.models import RecordType
from worker.budget import Budget, Purpose
from worker.copper.wire import WIRE, WireAccount, WireRecord, WireRelated, WireSubscription, WireUser
from worker.errors import NotThereError, ReconnectNeededError, UnreadableError, VendorError
from worker.parsing import ParseResult, parse, whole_number
from worker.unreadable import AnswerSource, report, report_answer
from worker.vendor import Spender, call, json_of, prepare, timeouts, vendor_time

log = structlog.get_logger()
PAGE_SIZE = 200
USER_PAGES = 20
Wire = TypeVar("Wire", bound=BaseModel)


def connected(account_id: int, purpose: Purpose) -> CopperClient:
    """A client with the account's key; raises `ReconnectNeededError` when Copper has refused that key."""
    with transaction() as session:
        state = accounts.copper_state(session, account_id)
        access = accounts.copper_access(session, account_id)
    if state is not None and state.lost:
        raise ReconnectNeededError("Copper refuses the API key: an admin must give a new one")
    return CopperClient.of_key(access, Spender(Budget.of_copper(account_id), purpose))


@dataclass(frozen=True)
class Records:
    """Records of one type that a fetch brought, ids that no longer exist, and what could not be read, by id.

    `received` counts what the vendor sent, `vendor_now` is its own clock at the first answer.
    """

    items: list[WireRecord]
    fetched_at: datetime
    gone: list[int] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    total: int | None = None
    received: int = 0
    vendor_now: datetime | None = None


class CopperClient:
    """Copper, as the holder of one API key or token sees it. Without a spender nothing is counted: connecting only."""

    def __init__(self, credentials: dict[str, str], spender: Spender | None = None) -> None:
        self._spender = spender
        self._session = prepare(requests.Session())
        self._session.headers.update({**credentials, "Content-Type": "application/json"})

    @classmethod
    def of_key(cls, access: CopperAccess, spender: Spender | None = None) -> CopperClient:
        """A client with an account's API key."""
        credentials = {
            "X-PW-AccessToken": access.api_key,
            "X-PW-Application": "developer_api",
            "X-PW-UserEmail": access.email,
        }
        return cls(credentials, spender)

    @classmethod
    def of_token(cls, token: str) -> CopperClient:
        """A client with a user's OAuth token, to see who signed in."""
        return cls({"Authorization": f"Bearer {token}"})

    def _ask(self, method: str, path: str, body: Any = None) -> requests.Response:
        url = f"{settings().copper_api_url}/{path}"
        answer = call(
            lambda: self._session.request(method, url, json=body, timeout=timeouts(), stream=True), self._spender
        )
        if answer.status_code in {401, 403}:
            self._mark_lost()
            raise ReconnectNeededError("Copper refuses the API key: an admin must give a new one")
        if answer.status_code >= 400:
            raise VendorError(f"Copper answered {answer.status_code} to {method} {path.split('/')[0]}")
        return answer

    def _mark_lost(self) -> None:
        if self._spender is not None:
            account_id = self._spender.budget.account_id
            with transaction() as session:
                accounts.mark_copper(session, account_id, "reconnect")
            log.warning("copper.lost", account=account_id)

    def _source(self, resource: str) -> AnswerSource:
        return AnswerSource("copper", self._spender.budget.account_id if self._spender else 0, 0, resource)

    def _rows(self, answer: requests.Response, resource: str) -> list[Any]:
        """The rows of an answer; raises `UnreadableError` where it is no list of them."""
        raw = json_of(answer)
        if isinstance(raw, dict) and "id" in raw:
            return [raw]
        if not isinstance(raw, list):
            report_answer(self._source(resource))
            raise UnreadableError(f"Copper's answer holds no list of {resource}")
        return raw

    def _parse(
        self, model: type[Wire], rows: list[Any], resource: str, clock: datetime | None = None
    ) -> ParseResult[Wire]:
        result = parse(model, rows, "id", clock)
        report(result, self._source(resource))
        return result

    def _one(self, model: type[Wire], path: str, resource: str) -> Wire:
        found = self._parse(model, [json_of(self._ask("GET", path))], resource).items
        if not found:
            raise UnreadableError(f"Copper's {resource} could not be read")
        return found[0]

    def account(self) -> WireAccount:
        """The account that the key belongs to."""
        return self._one(WireAccount, "account", "account")

    def me(self) -> WireUser:
        """Whose key or token this is; raises `ReconnectNeededError` unless it works."""
        return self._one(WireUser, "users/me", "user")

    def user(self, user_id: int) -> WireUser:
        """One user of the account, with their teams; raises `NotThereError` when there is none."""
        return self._one(WireUser, f"users/{user_id}", "user")

    def teams(self) -> dict[int, str]:
        """The account's teams by id: Copper has no listing of them but its users' groups."""
        found: dict[int, str] = {}
        for page in range(1, USER_PAGES + 1):
            answer = self._ask("POST", "users/search", {"page_number": page, "page_size": PAGE_SIZE})
            rows = self._rows(answer, "users")
            found |= {team.id: team.name for user in self._parse(WireUser, rows, "users").items for team in user.groups}
            if len(rows) < PAGE_SIZE:
                break
        return found

    def page(
        self,
        kind: RecordType,
        page: int = 1,
        *,
        created_from: int | None = None,
        modified_from: datetime | None = None,
        companies: Sequence[int] = (),
    ) -> Records:
        """A page of 200 records, oldest first, of those created and modified from then on.

        The reader moves `created_from` along instead of counting pages, so that records which are deleted
        behind it shift nothing out of its way, and no more than 100,000 are ever asked for (`page` counts
        within one second).
        """
        began = datetime.now(UTC)
        body: dict[str, Any] = {
            "page_number": page,
            "page_size": PAGE_SIZE,
            "sort_by": "date_created",
            "sort_direction": "asc",
        }
        if created_from is not None:
            body["minimum_created_date"] = created_from
        if modified_from is not None:
            body["minimum_modified_date"] = int(modified_from.timestamp())
        if companies:
            body["company_ids"] = list(companies)
        answer = self._ask("POST", f"{kind.plural}/search", body)
        rows, now = self._rows(answer, kind.plural), vendor_time(answer)
        result = self._parse(WIRE[kind], rows, kind.plural, now or began)
        return Records(result.items, began, [], result.unreadable, _total(answer), received=len(rows), vendor_now=now)

    def records(self, kind: RecordType, ids: Sequence[int]) -> Records:
        """The current state of `ids`, 200 a call; one that the search leaves out is asked for by itself.

        A search may lag behind a record that was made a moment ago: only a 404 says that it is gone.
        """
        began = datetime.now(UTC)
        found = Records([], began)
        unique = sorted(set(ids))
        for start in range(0, len(unique), PAGE_SIZE):
            chunk = unique[start : start + PAGE_SIZE]
            answer = self._ask("POST", f"{kind.plural}/search", {"ids": chunk, "page_size": PAGE_SIZE})
            try:
                rows = self._rows(answer, kind.plural)
            except UnreadableError as error:
                found.unreadable.update({str(record_id): str(error) for record_id in chunk})
                continue
            result = self._parse(WIRE[kind], rows, kind.plural, vendor_time(answer) or began)
            found.items.extend(result.items)
            found.unreadable.update(result.unreadable)
        seen = {item.id for item in found.items}
        for missing in unique:
            if missing not in seen and str(missing) not in found.unreadable:
                self._look_again(kind, missing, found)
        return found

    def _look_again(self, kind: RecordType, record_id: int, found: Records) -> None:
        try:
            answer = self._ask("GET", f"{kind.plural}/{record_id}")
        except NotThereError:
            found.gone.append(record_id)
            return
        clock = vendor_time(answer) or found.fetched_at
        result = self._parse(WIRE[kind], [json_of(answer)], kind.plural, clock)
        found.items.extend(result.items)
        if result.unreadable_rows:
            found.unreadable[str(record_id)] = "could not be read: it has no id"

    def related(self, opportunity_id: int) -> list[RelationRow] | None:
        """The people and companies related to an opportunity; None when it is gone.

        Raises `UnreadableError` when Copper's answer is no list.
        """
        try:
            answer = self._ask("GET", f"opportunities/{opportunity_id}/related")
        except NotThereError:
            return None
        lines = self._parse(WireRelated, self._rows(answer, "relations"), "relations").items
        return [row for line in lines if (row := line.row())]

    def subscriptions(self) -> list[WireSubscription]:
        """Every webhook subscription of this key, ours and others'."""
        rows = self._rows(self._ask("GET", "webhooks"), "webhooks")
        return self._parse(WireSubscription, rows, "webhooks").items

    def subscribe(self, target: str, kind: str, event: str, secret: dict[str, str]) -> None:
        """Make one webhook subscription."""
        body = {"target": target, "type": kind, "event": event, "secret": secret}
        self._ask("POST", "webhooks", body)

    def unsubscribe(self, subscription_id: int) -> None:
        """Remove one webhook subscription; one that is gone already is fine."""
        try:
            self._ask("DELETE", f"webhooks/{subscription_id}")
        except NotThereError:
            return


def _total(answer: requests.Response) -> int | None:
    try:
        return whole_number(answer.headers.get("X-PW-TOTAL"))
    except ValueError:
        return None
