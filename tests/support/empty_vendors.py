"""Xero and Copper where nothing has changed: every listing is empty, and every response immediate.

Only invoices that are requested by id exist, and are paid.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import cast
from urllib.parse import parse_qs, urlsplit

import uvloop
from typing_extensions import override

PAGINATION = '{"page":1,"pageSize":1000,"pageCount":1,"itemCount":0}'
INVOICE = (
    '{{"InvoiceID":"{id}","Type":"ACCREC","Status":"PAID","InvoiceNumber":"INV-1","Total":115,"AmountDue":0,'
    '"AmountPaid":115,"CurrencyCode":"NZD","UpdatedDateUTC":"/Date(1790000000000+0000)/"}}'
)


class EmptyVendor(asyncio.Protocol):
    """A connection. It reads no more of a request than it needs to see its end."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            lower = head.lower()
            start = lower.find(b"content-length:")
            length = int(lower[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            del self._buffer[: end + 4 + length]
            self._transport.write(_response(head.split(b" ", 2)[1].decode()))


def _response(path: str) -> bytes:
    body = b"[]"
    if "/api.xro/" in path:
        address = urlsplit(path)
        resource = address.path.rsplit("/", 1)[1]
        ids = parse_qs(address.query).get("IDs", [""])[0].split(",") if resource == "Invoices" else [""]
        invoices = ",".join(INVOICE.format(id=invoice_id) for invoice_id in ids if invoice_id)
        body = f'{{"{resource}":[{invoices}],"pagination":{PAGINATION}}}'.encode()
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ndate: {formatdate(usegmt=True)}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(EmptyVendor, "127.0.0.1", port)
    await server.serve_forever()


@contextmanager
def serving_empty_vendors() -> Iterator[str]:
    """Serve the vendors in a thread; yields their URL."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(EmptyVendor, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
