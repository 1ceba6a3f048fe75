"""Calls to Copper's developer API with an account's key."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import requests
import structlog
from pydantic import BaseModel

from runtime.settings import settings
from store import accounts, refusals
from store.accounts import CopperAccess
from store.database import transaction
from store.mirror import RelationRow
from store.models import RecordType
from store.refusals import Refusal
from worker.budget import Budget, Purpose
from worker.copper.wire import WIRE, WireAccount, WireRecord, WireRelated, WireSubscription, WireUser
from worker.errors import (
    EndpointRefusedError,
    FilterRefusedError,
    InvalidRequestError,
    NotThereError,
    ReconnectNeededError,
    UnreadableError,
    VendorError,
)
from worker.parsing import ParseResult, parse, whole_number
from worker.unreadable import AnswerSource, report, report_answer
from worker.vendor import CallTally, Spender, call, json_of, prepare, timeouts, vendor_time

log = structlog.get_logger()
PAGE_SIZE = 200
USER_PAGES = 20
Wire = TypeVar("Wire", bound=BaseModel)
REFUSED_KEY = "Copper refuses the API key: an admin must give a new one"
MODIFIED_FILTER = "minimum_modified_date"
# No run of the sync has to make up for what these did not bring.
WITHOUT_DATA = ("account", "users", "webhooks")


def connected(account_id: int, purpose: Purpose) -> CopperClient:
    """A client with the account's key; raises `ReconnectNeededError` when Copper has refused that key."""
    with transaction() as session:
        state = accounts.copper_state(session, account_id)
        access = accounts.copper_access(session, account_id)
        known = refusals.of_account(session, account_id, refusals.COPPER)
    if state is not None and state.lost:
        raise ReconnectNeededError(REFUSED_KEY)
    client = CopperClient.of_key(access, Spender(Budget.of_copper(account_id), purpose))
    client.owner = KeyOwner(account_id, access, tuple(known))
    return client


@dataclass(frozen=True)
class KeyOwner:
    """The account whose key a client calls with, and what Copper has refused it."""

    account_id: int
    access: CopperAccess
    refusals: tuple[Refusal, ...]

    def is_refused(self, endpoint: str, parameter: str = "") -> bool:
        """Whether Copper has refused it so lately that asking again is in vain."""
        return any(
            (refusal.endpoint, refusal.parameter) == (endpoint, parameter)
            and refusal.age < refusals.COPPER_TRUST_SECONDS
            for refusal in self.refusals
        )

    def was_refused(self, endpoint: str) -> bool:
        """Whether Copper refused it at the last try, however long ago: what it holds was not read since."""
        return any((refusal.endpoint, refusal.parameter) == (endpoint, "") for refusal in self.refusals)


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
    """Copper, as the holder of one API key or token sees it.

    Every call is counted: by a spender, or by a tally while nobody knows yet whose key it is. `owner` is the account
    that hears of a refusal.
    """

    def __init__(self, credentials: dict[str, str], counter: Spender | CallTally) -> None:
        self._counter = counter
        self.owner: KeyOwner | None = None
        self._session = prepare(requests.Session())
        self._session.headers.update({**credentials, "Content-Type": "application/json"})

    @classmethod
    def of_key(cls, access: CopperAccess, counter: Spender | CallTally) -> CopperClient:
        """A client with an account's API key."""
        credentials = {
            "X-PW-AccessToken": access.api_key,
            "X-PW-Application": "developer_api",
            "X-PW-UserEmail": access.email,
        }
        return cls(credentials, counter)

    @classmethod
    def of_token(cls, token: str, counter: Spender | CallTally) -> CopperClient:
        """A client with a user's OAuth token, to see who signed in."""
        return cls({"Authorization": f"Bearer {token}"}, counter)

    def count_by(self, spender: Spender) -> None:
        """Take the calls from now on from an account's budget: it is known whose key this is."""
        self._counter = spender

    def _ask(self, method: str, path: str, body: Any = None, *, endpoint: str) -> requests.Response:
        """One call; raises `EndpointRefusedError` where the key works but `endpoint` is not for it.

        Copper answers 401 (and 403) for a dead key as well as for what the plan or the role does not include, so
        the key is dead only when `GET /users/me` is refused, too.
        """
        if self.owner is not None and self.owner.is_refused(endpoint):
            raise _refused(endpoint)
        answer = self._send(method, path, body)
        if answer.status_code in {401, 403}:
            if path == "users/me" or self._send("GET", "users/me").status_code in {401, 403}:
                self._mark_lost()
                raise ReconnectNeededError(REFUSED_KEY)
            raise self._mark_refused(endpoint)
        if answer.status_code in {400, 422}:
            raise InvalidRequestError(f"Copper answered {answer.status_code} to {method} {path.split('/')[0]}")
        if answer.status_code >= 400:
            raise VendorError(f"Copper answered {answer.status_code} to {method} {path.split('/')[0]}")
        if self.owner is not None and self.owner.was_refused(endpoint) and endpoint.startswith(WITHOUT_DATA):
            with transaction() as session:
                refusals.clear(session, self.owner.account_id, refusals.COPPER, endpoint)
        return answer

    def _send(self, method: str, path: str, body: Any = None) -> requests.Response:
        url = f"{settings().copper_api_url}/{path}"
        return call(
            lambda: self._session.request(method, url, json=body, timeout=timeouts(), stream=True), self._counter
        )

    def _mark_lost(self) -> None:
        if self.owner is not None:
            with transaction() as session:
                accounts.mark_copper(session, self.owner.account_id, "reconnect", self.owner.access)
            log.warning("copper.lost", account=self.owner.account_id)

    def _mark_refused(self, endpoint: str) -> EndpointRefusedError:
        # A refusal of one record says nothing of the endpoint.
        if self.owner is not None and not endpoint.endswith("{id}"):
            with transaction() as session:
                refusals.record(session, self.owner.account_id, refusals.COPPER, endpoint)
            log.warning("endpoint.refused", account=self.owner.account_id, endpoint=endpoint)
        return _refused(endpoint)

    def _source(self, resource: str) -> AnswerSource:
        return AnswerSource("copper", self.owner.account_id if self.owner is not None else 0, 0, resource)

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

    def _one(self, model: type[Wire], path: str, resource: str, *, endpoint: str) -> Wire:
        found = self._parse(model, [json_of(self._ask("GET", path, endpoint=endpoint))], resource).items
        if not found:
            raise UnreadableError(f"Copper's {resource} could not be read")
        return found[0]

    def account(self) -> WireAccount:
        """The account that the key belongs to."""
        return self._one(WireAccount, "account", "account", endpoint="account")

    def me(self) -> WireUser:
        """Whose key or token this is; raises `ReconnectNeededError` unless it works."""
        return self._one(WireUser, "users/me", "user", endpoint="users/me")

    def user(self, user_id: int) -> WireUser:
        """One user of the account, with their teams; raises `NotThereError` when there is none."""
        return self._one(WireUser, f"users/{user_id}", "user", endpoint="users/{id}")

    def users(self) -> list[WireUser]:
        """The account's users with their teams, at most 4,000."""
        found: list[WireUser] = []
        for page in range(1, USER_PAGES + 1):
            body = {"page_number": page, "page_size": PAGE_SIZE}
            rows = self._rows(self._ask("POST", "users/search", body, endpoint="users/search"), "users")
            found += self._parse(WireUser, rows, "users").items
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
        body: dict[str, Any] = {
            "page_number": page,
            "page_size": PAGE_SIZE,
            "sort_by": "date_created",
            "sort_direction": "asc",
        }
        if created_from is not None:
            body["minimum_created_date"] = created_from
        if modified_from is not None:
            body[MODIFIED_FILTER] = int(modified_from.timestamp())
        if companies:
            body["company_ids"] = list(companies)
        try:
            records = self._search(kind, body)
        except InvalidRequestError as error:
            if modified_from is None:
                raise
            raise FilterRefusedError(str(error)) from None
        if modified_from is not None and _any_older(records.items, modified_from):
            raise FilterRefusedError(f"Copper ignores {MODIFIED_FILTER}")
        return records

    def latest(self, kind: RecordType, page: int) -> Records:
        """A page of 200 records, the last modified first."""
        body = {"page_number": page, "page_size": PAGE_SIZE, "sort_by": "date_modified", "sort_direction": "desc"}
        return self._search(kind, body)

    def refuses_modified_filter(self, kind: RecordType) -> bool:
        """Whether a search by modification date has been refused lately."""
        return self.owner is not None and self.owner.is_refused(kind.plural, MODIFIED_FILTER)

    def _search(self, kind: RecordType, body: dict[str, Any]) -> Records:
        """One search; a collection that is not there is a feature that the account does not have (leads)."""
        began = datetime.now(UTC)
        try:
            answer = self._ask("POST", f"{kind.plural}/search", body, endpoint=kind.plural)
        except NotThereError:
            raise self._mark_refused(kind.plural) from None
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
            try:
                some = self._search(kind, {"ids": chunk, "page_size": PAGE_SIZE})
            except UnreadableError as error:
                found.unreadable.update({str(record_id): str(error) for record_id in chunk})
                continue
            found.items.extend(some.items)
            found.unreadable.update(some.unreadable)
        seen = {item.id for item in found.items}
        for missing in unique:
            if missing not in seen and str(missing) not in found.unreadable:
                self._look_again(kind, missing, found)
        return found

    def _look_again(self, kind: RecordType, record_id: int, found: Records) -> None:
        try:
            answer = self._ask("GET", f"{kind.plural}/{record_id}", endpoint=f"{kind.plural}/{{id}}")
        except NotThereError:
            found.gone.append(record_id)
            return
        except EndpointRefusedError as error:
            # The key's owner may not see this one record: that does not say that it is gone.
            found.unreadable[str(record_id)] = str(error)
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
            path = f"opportunities/{opportunity_id}/related"
            answer = self._ask("GET", path, endpoint="opportunities/related")
        except NotThereError:
            return None
        lines = self._parse(WireRelated, self._rows(answer, "relations"), "relations").items
        return [row for line in lines if (row := line.row())]

    def subscriptions(self) -> list[WireSubscription]:
        """Every webhook subscription of this key, ours and others'."""
        rows = self._rows(self._ask("GET", "webhooks", endpoint="webhooks"), "webhooks")
        return self._parse(WireSubscription, rows, "webhooks").items

    def subscribe(self, target: str, kind: str, event: str, secret: dict[str, str]) -> None:
        """Make one webhook subscription."""
        body = {"target": target, "type": kind, "event": event, "secret": secret}
        self._ask("POST", "webhooks", body, endpoint=f"webhooks/{kind}")

    def unsubscribe(self, subscription_id: int) -> None:
        """Remove one webhook subscription; one that is gone already is fine."""
        try:
            self._ask("DELETE", f"webhooks/{subscription_id}", endpoint="webhooks")
        except NotThereError:
            return


def teams_of(users: Collection[WireUser]) -> dict[int, str]:
    """The teams of some users by id: Copper has no listing of them."""
    return {team.id: team.name for user in users for team in user.groups}


def _refused(endpoint: str) -> EndpointRefusedError:
    return EndpointRefusedError(f"Copper accepts the API key, but refuses {endpoint} to it", endpoint)


def _any_older(records: Sequence[WireRecord], since: datetime) -> bool:
    """Whether the search brought what was modified before the whole second that was asked for."""
    second = int(since.timestamp())
    return any(record.updated_at and int(record.updated_at.timestamp()) < second for record in records)


def _total(answer: requests.Response) -> int | None:
    try:
        return whole_number(answer.headers.get("X-PW-TOTAL"))
    except ValueError:
        return None
