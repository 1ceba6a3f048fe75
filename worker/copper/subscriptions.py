"""The 12 webhook subscriptions that an account needs: four record types, three events each."""

from __future__ import annotations

from runtime.settings import settings
from store.accounts import CopperAccess
from store.inbox import COPPER_EVENTS, COPPER_KINDS
from worker.copper.client import CopperClient
from worker.copper.wire import WireSubscription
from worker.errors import EndpointRefusedError

PATH = "/webhooks/copper/"
WANTED = len(COPPER_KINDS) * len(COPPER_EVENTS)
SECRET_KEY = "patina_secret"


def register(client: CopperClient, access: CopperAccess) -> int:
    """Subscribe under the account's webhook path, then drop our own older ones; others' stay untouched.

    The new ones come first: for a moment an event may come twice, but at no moment none. Returns how
    many were made. Raises `EndpointRefusedError` where webhooks are not for this key at all.
    """
    older = _ours(client)
    target = _base() + access.webhook_token
    made = sum(_subscribe(client, target, kind, access) for kind in COPPER_KINDS)
    for one in older:
        client.unsubscribe(one.id)
    return made


def _subscribe(client: CopperClient, target: str, kind: str, access: CopperAccess) -> int:
    """Subscribe to one record type; one that Copper refuses to this key is noted, and the others go on."""
    try:
        for event in COPPER_EVENTS:
            client.subscribe(target, kind, event, {SECRET_KEY: access.webhook_secret})
    except EndpointRefusedError:
        return 0
    return len(COPPER_EVENTS)


def remove(client: CopperClient, webhook_token: str) -> int:
    """Drop the subscriptions to one webhook path; returns how many there were.

    The path and not all of ours: the account may have been connected anew under another one.
    """
    ours = at(client, webhook_token)
    for one in ours:
        client.unsubscribe(one.id)
    return len(ours)


def at(client: CopperClient, webhook_token: str) -> list[WireSubscription]:
    """The subscriptions to one webhook path."""
    return [one for one in _ours(client) if one.target == _base() + webhook_token]


def _base() -> str:
    return (settings().copper_webhook_url or settings().public_url).rstrip("/") + PATH


def _ours(client: CopperClient) -> list[WireSubscription]:
    return [one for one in client.subscriptions() if one.target.startswith(_base())]
