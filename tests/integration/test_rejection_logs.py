"""Refused requests are counted, and logged in samples with their reason and without addresses."""

from __future__ import annotations

import json

import pytest

from runtime import logs
from runtime.settings import override_settings
from tests.support.admin import AdminBrowser
from tests.support.refusals import refused
from tests.support.serving import wait_until
from tests.support.world import World
from web.middleware.client_address import label_of
from web.middleware.refusals import RefusalReason, RefusalSampler


def lines(output: str, event: str) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [line for line in entries if line["event"] == event]


def test_the_first_refusal_of_each_reason_is_logged_and_the_others_are_counted(
    capfd: pytest.CaptureFixture[str], database: str
) -> None:
    override_settings({"LOG_FORMAT": "json", "LOG_LEVEL": "info"})
    logs.configure("web")
    samples = RefusalSampler(max_series=2)
    before = refused(RefusalReason.RATE)
    for address in ("203.0.113.1", "203.0.113.2", "203.0.113.3"):
        for _ in range(100):
            samples.record(RefusalReason.RATE, address, route="/v1", status=429, key="pat_12345678")
    output = capfd.readouterr().err
    entries = lines(output, "request.refused")
    assert [line["address"] for line in entries] == [label_of("203.0.113.1"), label_of("203.0.113.2")]
    assert "203.0.113" not in output
    assert refused(RefusalReason.RATE) == before + 300
    samples.flush()
    (summary,) = lines(capfd.readouterr().err, "requests.refused")
    assert (summary["address"], summary["left_out"]) == ("others", 100)


def test_every_refusal_is_logged_with_its_reason(
    world: World, admin: AdminBrowser, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    override_settings({"LOG_FORMAT": "json", "LOG_LEVEL": "info"})
    logs.configure("web")
    monkeypatch.setattr("web.middleware.refusals.SAMPLES", RefusalSampler())
    capfd.readouterr()
    key = {"Authorization": f"Bearer {world.key}"}
    world.web.get("/v1/people/1/match", headers=key)
    world.web.get("/v1/people/1/invoices", headers={"Authorization": "Bearer pat_abcdefghijklmnopqrst"})
    world.web.post("/webhooks/xero", content=b"{}")
    world.web.get("/panel/records/person/1")
    admin.http.post("/keys", data={"csrf": "x"})
    AdminBrowser(world.web).sign_in("wrong", "ann@acme.test")
    world.web.get("/connect?q=%00")
    entries: dict[object, dict[str, object]] = {}

    def logged_reasons() -> set[object]:
        # A refusal may be logged shortly after its response arrived.
        entries.update((line["reason"], line) for line in lines(capfd.readouterr().err, "request.refused"))
        return set(entries)

    wait_until(lambda: "input" in logged_reasons(), description="the log line of the last refusal")
    assert set(entries) == {"scope", "credential", "signature", "panel", "form", "sign_in", "input"}
    assert entries["credential"]["key"] == "pat_abcdefgh"
    assert entries["credential"]["route"] == "/v1/{type}/{id}/invoices"
    assert entries["signature"]["status"] == 401
    assert all(line["address"] == label_of("127.0.0.1") for line in entries.values())
