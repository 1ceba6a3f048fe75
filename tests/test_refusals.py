"""What was refused is in the log, sampled, with its reason and no address, and counted."""

from __future__ import annotations

import json

import pytest
from prometheus_client import REGISTRY

from runtime import logs
from runtime.settings import override
from tests.admin import AdminBrowser
from tests.databases import forget_budgets
from tests.test_pages import sign_in
from tests.world import World
from web.client_address import label_of
from web.refusals import Reason, Samples


@pytest.fixture
def admin(world: World) -> AdminBrowser:
    forget_budgets("throttle")
    return sign_in(world)


def refused(reason: Reason) -> float:
    return REGISTRY.get_sample_value("patina_refused_total", {"reason": reason.value}) or 0.0


def lines(said: str, event: str) -> list[dict[str, object]]:
    read = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return [line for line in read if line["event"] == event]


def test_the_first_refusal_of_a_kind_is_logged_and_the_others_counted(
    capfd: pytest.CaptureFixture[str], database: str
) -> None:
    override({"LOG_FORMAT": "json", "LOG_LEVEL": "info"})
    logs.configure("web")
    samples = Samples(most=2)
    before = refused(Reason.RATE)
    for address in ("203.0.113.1", "203.0.113.2", "203.0.113.3"):
        for _ in range(100):
            samples.note(Reason.RATE, address, route="/v1", status=429, key="pat_12345678")
    said = capfd.readouterr().err
    told = lines(said, "request.refused")
    assert [line["address"] for line in told] == [label_of("203.0.113.1"), label_of("203.0.113.2")]
    assert "203.0.113" not in said
    assert refused(Reason.RATE) == before + 300
    samples.flush()
    (others,) = lines(capfd.readouterr().err, "requests.refused")
    assert (others["address"], others["left_out"]) == ("others", 100)


def test_each_kind_of_refusal_is_logged_with_its_reason(
    world: World, admin: AdminBrowser, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    override({"LOG_FORMAT": "json", "LOG_LEVEL": "info"})
    logs.configure("web")
    monkeypatch.setattr("web.refusals.SAMPLES", Samples())
    capfd.readouterr()
    key = {"Authorization": f"Bearer {world.key}"}
    world.web.get("/v1/people/1/match", headers=key)
    world.web.get("/v1/people/1/invoices", headers={"Authorization": "Bearer pat_abcdefghijklmnopqrst"})
    world.web.post("/webhooks/xero", content=b"{}")
    world.web.get("/panel/records/person/1")
    admin.http.post("/keys", data={"csrf": "x"})
    AdminBrowser(world.web).sign_in("wrong", "ann@acme.test")
    world.web.get("/connect?q=%00")
    told = {line["reason"]: line for line in lines(capfd.readouterr().err, "request.refused")}
    assert set(told) == {"scope", "credential", "signature", "panel", "form", "sign_in", "input"}
    assert told["credential"]["key"] == "pat_abcdefgh"
    assert told["credential"]["route"] == "/v1/{type}/{id}/invoices"
    assert told["signature"]["status"] == 401
    assert all(line["address"] == label_of("127.0.0.1") for line in told.values())
