"""Calls to Copper's developer API with an account's key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import requests
import structlog
from pydantic import TypeAdapter

from runtime.numbers import whole_number
from runtime.settings import settings
from store import accounts
from store.accounts import CopperAccess
from store.database import transaction
from store.mirror import RelationRow
from store.models import RecordType
from worker.budget import Budget, Purpose
from worker.copper.wire import WIRE, WireAccount, WireRecord, WireRelated, WireSubscription, WireUser
from worker.errors import NotThereError, PassingError, ReconnectNeededError, VendorError
from worker.vendor import Spender, call, json_of, parse, prepare, timeouts, vendor_time

log = structlog.get_logger()
PAGE_SIZE = 200
USER_PAGES = 20
RELATED = TypeAdapter(list[WireRelated])
SUBSCRIPTIONS = TypeAdapter(list[WireSubscription])


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
    """Records of one type that a fetch brought, and ids that no longer exist.

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

    def account(self) -> WireAccount:
        """The account that the key belongs to."""
        return WireAccount.model_validate(json_of(self._ask("GET", "account")))

    def me(self) -> WireUser:
        """Whose key or token this is; raises `ReconnectNeededError` unless it works."""
        return WireUser.model_validate(json_of(self._ask("GET", "users/me")))

    def user(self, user_id: int) -> WireUser:
        """One user of the account, with their teams; raises `NotThereError` when there is none."""
        return WireUser.model_validate(json_of(self._ask("GET", f"users/{user_id}")))

    def teams(self) -> dict[int, str]:
        """The account's teams by id: Copper has no listing of them but its users' groups."""
        found: dict[int, str] = {}
        for page in range(1, USER_PAGES + 1):
            raw = json_of(self._ask("POST", "users/search", {"page_number": page, "page_size": PAGE_SIZE}))
            good, _ = parse(WireUser, raw, "id")
            found |= {team.id: team.name for user in good for team in user.groups}
            if len(raw) < PAGE_SIZE:
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
        raw = json_of(answer)
        if not isinstance(raw, list):
            raise PassingError("Copper's answer was not a JSON array")
        good, bad = parse(WIRE[kind], raw, "id")
        total = answer.headers.get("X-PW-TOTAL", "")
        return Records(good, began, [], bad, whole_number(total), len(raw), vendor_time(answer))

    def records(self, kind: RecordType, ids: Sequence[int]) -> Records:
        """The current state of `ids`, 200 a call; one that the search leaves out is asked for by itself.

        A search may lag behind a record that was made a moment ago: only a 404 says that it is gone.
        """
        began = datetime.now(UTC)
        found = Records([], began)
        unique = sorted(set(ids))
        for start in range(0, len(unique), PAGE_SIZE):
            chunk = unique[start : start + PAGE_SIZE]
            raw = json_of(self._ask("POST", f"{kind.plural}/search", {"ids": chunk, "page_size": PAGE_SIZE}))
            good, bad = parse(WIRE[kind], raw, "id")
            found.items.extend(good)
            found.unreadable.update(bad)
        seen = {item.id for item in found.items}
        for missing in unique:
            if missing not in seen and str(missing) not in found.unreadable:
                self._look_again(kind, missing, found)
        return found

    def _look_again(self, kind: RecordType, record_id: int, found: Records) -> None:
        try:
            raw = json_of(self._ask("GET", f"{kind.plural}/{record_id}"))
        except NotThereError:
            found.gone.append(record_id)
            return
        good, bad = parse(WIRE[kind], [raw], "id")
        found.items.extend(good)
        found.unreadable.update(bad)

    def related(self, opportunity_id: int) -> list[RelationRow] | None:
        """The people and companies related to an opportunity; None when it is gone."""
        try:
            raw = json_of(self._ask("GET", f"opportunities/{opportunity_id}/related"))
        except NotThereError:
            return None
        return [row for line in RELATED.validate_python(raw) if (row := line.row())]

    def subscriptions(self) -> list[WireSubscription]:
        """Every webhook subscription of this key, ours and others'."""
        return SUBSCRIPTIONS.validate_python(json_of(self._ask("GET", "webhooks")))

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
