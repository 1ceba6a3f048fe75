"""Fixtures of the integration tests."""

from __future__ import annotations

import pytest

from tests.support.admin import AdminBrowser, sign_in
from tests.support.databases import clear_budgets
from tests.support.world import World


@pytest.fixture
def admin(world: World) -> AdminBrowser:
    """A signed-in admin of the world's account, after whom no attempt counts."""
    clear_budgets("throttle")
    return sign_in(world)
