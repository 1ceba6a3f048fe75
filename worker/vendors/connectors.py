"""The connectors of all vendors: the only module in `worker.vendors` that imports more than one."""

from __future__ import annotations

from collections.abc import Callable

from store.db.database import Session
from store.ingest.inbox import SyncSource
from worker.vendors.connector import Connector
from worker.vendors.copper import connector as copper
from worker.vendors.xero import connector as xero

# By `SyncSource.vendor`.
CONNECTORS: dict[str, Callable[[SyncSource], Connector]] = {
    "copper": copper.CopperConnector,
    "xero": xero.XeroConnector,
}


def connector_for(source: SyncSource) -> Connector:
    """The connector of a source. Neither the database nor the vendor is called."""
    return CONNECTORS[source.vendor](source)


def list_sources(session: Session, account_id: int) -> list[SyncSource]:
    """All sources of an account, also those that an admin has to reconnect: Copper first, then the organisations."""
    return [*copper.list_sources(session, account_id), *xero.list_sources(session, account_id)]
