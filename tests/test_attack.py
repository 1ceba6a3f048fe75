"""The attacks themselves: they are what they claim, and they notice when a protection is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.attack import admission
from tests.attack.catalogue import ATTACKS
from tests.attack.evidence import Attack, Evidence
from tests.attack.load import Measurement, Waits
from tests.attack.runner import Verdict, carry_out, select, summarise
from tests.attack.site import Site
from tests.databases import forget_budgets
from tests.world import World
from webhooks import receivers
from webhooks.payloads import Notification, Origin, Secret, read_notification

FINDINGS = 30


@pytest.fixture
def site(unconnected: World, tmp_path: Path) -> Site:
    """The web process of this test as an installation that can be attacked."""
    forget_budgets("throttle")
    return Site(tmp_path, unconnected.sandbox, str(unconnected.web.base_url), workers=False)


def test_every_attack_has_a_name_of_its_own_and_says_what_it_tries() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) == FINDINGS
    assert all(attack.about.endswith(".") for attack in ATTACKS)
    assert [attack.name for attack in select(["webhook_secret"])] == ["webhook_secret_is_not_kept"]


def test_an_attack_notices_that_its_protection_is_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not admission.webhook_secret_is_not_kept(site).is_open

    def keep_as_it_came(_: Any, account_id: int, origin: Origin, secret: Secret) -> Notification:
        assert secret.value
        return read_notification(orjson.loads(origin.body), account_id, origin, Secret("no field", "no value"))

    monkeypatch.setattr(receivers, "read_notification", keep_as_it_came)
    evidence = admission.webhook_secret_is_not_kept(site)
    assert evidence.is_open
    assert "hold the webhook's secret" in evidence.saw


def test_an_attack_that_saw_nothing_or_failed_counts_as_open(site: Site) -> None:
    def finds_nothing(_: Site) -> Evidence:
        """Looks at nothing."""
        return Evidence()

    def breaks(_: Site) -> Evidence:
        """Breaks."""
        raise ValueError("no such thing")

    for attack in (finds_nothing, breaks):
        assert carry_out(Attack(attack), site).is_open


def test_the_last_line_says_what_is_open_and_how_long_others_waited() -> None:
    closed, opened = Verdict("one", False, "", 1), Verdict("another", True, "", 1)
    quick, slow = Waits(2, 12.3, 0, 100), Waits(9, 620.0, 0, 100)

    well, lines = summarise([closed], [Measurement(quick, quick), Measurement(quick, quick)])
    assert well
    assert lines[-1] == "attack ok: findings 1, open 0, other tenant p99 12 ms / 12 ms"

    well, lines = summarise([closed, opened], [Measurement(quick, quick), Measurement(quick, slow)])
    assert not well
    assert lines[-1] == "attack failed: findings 2, open 1 (another), other tenant p99 12 ms / 620 ms"
    assert "with the attack: panel p50 9 ms, p99 620 ms, 0 of 100 not answered" in lines
