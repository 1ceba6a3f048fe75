"""The initial backfill of 100,000 invoices at the vendors' real limits, in real minutes.

The least time that any client needs: call number n, counted from 1, cannot be sent before (n - 1) // limit windows have
passed since the first call, because no window has more calls than the limit, and the first one starts unused. So all
calls together take at least (calls - 1) // limit windows. 121 calls to Xero are one more than two windows have, so the
free first burst gains nothing: the least time is also calls / limit. Copper has a tenth of the records, so that it is
not the slower one. The reserve for events, a tenth of each window, takes no time: three windows without it have enough
calls. In a backfill of more than nine windows it would.
"""

from __future__ import annotations

from typing import NamedTuple

from bench import environment, vendors
from bench.backfill import start_workers
from bench.figures import Figure, ratio_at_most, timed
from runtime.settings import Settings, override_settings, settings
from tests.support.world import Sandbox
from worker.vendors.sync_types import RunKind

MAX_RATIO = 1.03
LIMIT_SETTINGS = (
    "xero_calls_per_minute",
    "xero_max_concurrent_calls",
    "xero_calls_per_day",
    "xero_app_calls_per_minute",
    "copper_calls_per_minute",
    "rate_limit_window_seconds",
)
XERO_PATH, COPPER_PATH = "/api.xro/", "/developer_api/"


class VendorCalls(NamedTuple):
    """The calls of a run to one vendor, and the vendor's limit a window."""

    calls: int
    limit: int

    def least_seconds(self, window: float) -> float:
        """The least time in which any client makes these calls."""
        return (self.calls - 1) // self.limit * window


def _calls(sandbox: Sandbox) -> dict[str, VendorCalls]:
    config = settings()
    return {
        "Xero": VendorCalls(sandbox.calls(XERO_PATH), config.xero_calls_per_minute),
        "Copper": VendorCalls(sandbox.calls(COPPER_PATH), config.copper_calls_per_minute),
    }


def measure(_: int) -> list[Figure]:
    """One round, because it takes minutes."""
    defaults = {name.upper(): str(Settings.model_fields[name].default) for name in LIMIT_SETTINGS}
    override_settings(defaults)
    with environment.empty_database(), vendors.run_sandbox("limits", has_limits=True) as sandbox, start_workers():
        world = vendors.connect_account(sandbox)
        with timed() as timer:
            world.run(RunKind.BACKFILL, seconds=900)
        calls, state = _calls(sandbox), sandbox.state()
    least = {name: vendor.least_seconds(settings().rate_limit_window_seconds) for name, vendor in calls.items()}
    slower = max(least, key=lambda name: least[name])
    counts = ", ".join(f"{vendor.calls} calls to {name} at {vendor.limit} a minute" for name, vendor in calls.items())
    figure = ratio_at_most(
        f"time of a backfill of {vendors.SHAPES['limits']} at the vendors' limits",
        [timer.seconds],
        [least[slower]],
        "s",
        MAX_RATIO,
        f"the least time of these calls, here those to {slower}",
        note=f"{counts}; {state['rate_limited']} refused",
        miss_reason="a call counts until a window after its response, and the pages of a window take as long to process"
        " as this machine needs; a page for which no call is left waits until one expires",
    )
    return [figure]
