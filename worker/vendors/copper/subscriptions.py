"""The 12 webhook subscriptions that an account needs: four record types, three event types each."""

from __future__ import annotations

from runtime.settings import settings
from store.accounts.copper_credentials import CopperCredentials
from store.ingest.inbox import COPPER_CATEGORIES, COPPER_EVENTS
from worker.vendors.copper.client import CopperClient
from worker.vendors.copper.schemas import CopperSubscription
from worker.vendors.errors import EndpointRefusedError

PATH = "/webhooks/copper/"
EXPECTED_COUNT = len(COPPER_CATEGORIES) * len(COPPER_EVENTS)
SECRET_KEY = "patina_secret"


def register(client: CopperClient, credentials: CopperCredentials) -> int:
    """Subscribe to the account's webhook path, then delete our older subscriptions; others' are left alone.

    The new ones are created first: for a moment an event may be delivered twice, but none is missed. Returns the number
    of new subscriptions. Raises `EndpointRefusedError` if this key may not use webhooks at all.
    """
    old_subscriptions = _our_subscriptions(client)
    target = _base_url() + credentials.webhook_token
    created = sum(_subscribe(client, target, category, credentials) for category in COPPER_CATEGORIES)
    for subscription in old_subscriptions:
        client.unsubscribe(subscription.id)
    return created


def _subscribe(client: CopperClient, target: str, category: str, credentials: CopperCredentials) -> int:
    """Subscribe to one record type; returns 0 if Copper refuses it, so that the others are still subscribed."""
    try:
        for event_type in COPPER_EVENTS:
            client.subscribe(target, category, event_type, {SECRET_KEY: credentials.webhook_secret})
    except EndpointRefusedError:
        return 0
    return len(COPPER_EVENTS)


def remove(client: CopperClient, webhook_token: str) -> int:
    """Delete the subscriptions to one webhook path; returns how many there were.

    Not all of ours are deleted, because the account may have been connected again with another path.
    """
    subscriptions = list_for_token(client, webhook_token)
    for subscription in subscriptions:
        client.unsubscribe(subscription.id)
    return len(subscriptions)


def list_for_token(client: CopperClient, webhook_token: str) -> list[CopperSubscription]:
    """The subscriptions to one webhook path."""
    target = _base_url() + webhook_token
    return [subscription for subscription in _our_subscriptions(client) if subscription.target == target]


def _base_url() -> str:
    return (settings().copper_webhook_url or settings().public_url).rstrip("/") + PATH


def _our_subscriptions(client: CopperClient) -> list[CopperSubscription]:
    base_url = _base_url()
    return [subscription for subscription in client.list_subscriptions() if subscription.target.startswith(base_url)]
