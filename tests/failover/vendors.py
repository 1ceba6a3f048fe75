"""The sandbox of both vendors on a host of its own: `python -m tests.failover.vendors ADDRESS PORT`."""

from __future__ import annotations

import sys

from sandbox import server

if __name__ == "__main__":
    server.serve(host=sys.argv[1], port=int(sys.argv[2]), seed=1, size=0, state=None, limits=False)
