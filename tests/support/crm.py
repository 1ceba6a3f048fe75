"""A client of the sandbox's Copper with an admin's key, and a receiver of its notifications."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.support.serving import read_body, serving, wait_until
from tests.support.world import Sandbox

BASE = "/copper/developer_api/v1"
Notifications = list[dict[str, Any]]


def key_headers(admin: dict[str, Any]) -> dict[str, str]:
    """The headers of an admin's API key."""
    return {
        "X-PW-AccessToken": admin["api_key"],
        "X-PW-Application": "developer_api",
        "X-PW-UserEmail": admin["email"],
    }


class Crm:
    """A client of the sandbox's Copper with an admin's key."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.account = sandbox.simulate("add_account", name="Acme")
        self.headers = key_headers(self.account)

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.sandbox.http.request(method, f"{BASE}/{path}", json=body, headers=self.headers)

    def make(self, record_type: str, name: str = "R", **values: Any) -> int:
        record = self.sandbox.simulate(
            "create_record", type=record_type, name=name, account=self.account["account"], **values
        )
        return int(record["id"])

    def act(self, action: str, **values: Any) -> dict[str, Any]:
        return self.sandbox.simulate(action, account=self.account["account"], **values)

    def ids(self, plural: str, **search: Any) -> list[int]:
        response = self.ask("POST", f"{plural}/search", search)
        assert response.status_code == 200, response.text
        return [record["id"] for record in response.json()]

    @contextmanager
    def receiving(self, *events: str, record_type: str = "person", status: int = 200) -> Iterator[Notifications]:
        """The notifications of events of a type, with their headers, as they arrive while the block runs."""
        self.settle()
        notifications: Notifications = []

        async def receiver(scope: Any, receive: Any, send: Any) -> None:
            headers = {key.decode(): value.decode() for key, value in scope["headers"]}
            notifications.append({**json.loads(await read_body(receive)), "headers": headers})
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        with serving(receiver) as url:
            for event in events:
                body = {"target": url, "type": record_type, "event": event, "secret": {"k": "v"}}
                assert self.ask("POST", "webhooks", {**body, "headers": {"x-mine": "1"}}).status_code == 200
            yield notifications

    def settle(self) -> None:
        """Wait until every notification is delivered."""
        wait_until(lambda: self.sandbox.state()["pending_deliveries"] == 0)
