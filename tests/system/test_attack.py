"""The attacks themselves: they have names, and they succeed when a protection is removed."""

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
from tests.support.databases import clear_budgets
from tests.support.world import World
from webhooks import endpoints
from webhooks.payloads import Notification, Origin, Secret, read_notification

FINDINGS = 30


@pytest.fixture
def site(unconnected: World, tmp_path: Path) -> Site:
    """The web process of this test as an installation to attack."""
    clear_budgets("throttle")
    return Site(tmp_path, unconnected.sandbox, str(unconnected.web.base_url), workers=False)


def test_every_attack_has_a_unique_name_and_a_description() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) == FINDINGS
    assert all(attack.about.endswith(".") for attack in ATTACKS)
    assert [attack.name for attack in select(["webhook_secret"])] == ["webhook_secret_is_not_stored"]


def test_an_attack_succeeds_when_its_protection_is_removed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not admission.webhook_secret_is_not_stored(site).is_open

    def keep_as_it_came(_: Any, account_id: int, origin: Origin, secret: Secret) -> Notification:
        assert secret.value
        return read_notification(orjson.loads(origin.body), account_id, origin, Secret("no field", "no value"))

    monkeypatch.setattr(endpoints, "read_notification", keep_as_it_came)
    evidence = admission.webhook_secret_is_not_stored(site)
    assert evidence.is_open
    assert "hold the webhook's secret" in evidence.saw


def test_an_attack_without_evidence_or_with_an_error_counts_as_open(site: Site) -> None:
    def finds_nothing(_: Site) -> Evidence:
        """Records no evidence."""
        return Evidence()

    def breaks(_: Site) -> Evidence:
        """Raises an error."""
        raise ValueError("no such thing")

    for attack in (finds_nothing, breaks):
        assert carry_out(Attack(attack), site).is_open


def test_the_last_line_names_open_attacks_and_the_latency_of_other_tenants() -> None:
    caught, open_ = Verdict("one", False, "", 1), Verdict("another", True, "", 1)
    quick, slow = Waits(2, 12.3, 0, 100), Waits(9, 620.0, 0, 100)

    well, lines = summarise([caught], [Measurement(quick, quick), Measurement(quick, quick)])
    assert well
    assert lines[-1] == "attack ok: findings 1, open 0, other tenant p99 12 ms / 12 ms"

    well, lines = summarise([caught, open_], [Measurement(quick, quick), Measurement(quick, slow)])
    assert not well
    assert lines[-1] == "attack failed: findings 2, open 1 (another), other tenant p99 12 ms / 620 ms"
    assert "with the attack: panel p50 9 ms, p99 620 ms, 0 of 100 not answered" in lines
