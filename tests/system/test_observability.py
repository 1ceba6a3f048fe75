"""Observability: metrics of each process, correlation ids, and traces."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from runtime.settings import override_settings
from tests.chaos import free_port
from tests.support.processes import Processes, patina
from tests.support.serving import wait_until
from tests.support.world import World
from worker.jobs import actors

DOCS = Path(__file__).resolve().parents[2] / "docs" / "monitoring"
TOKEN = "a-token-of-the-scraper"
SELECTOR = re.compile(r'([a-zA-Z_]+)(?:=~|!~|!=|=)"')
BY = re.compile(r"by \(([^)]*)\)")
METRIC = re.compile(r"\b((?:patina|dramatiq|process)_[a-z_]+)\b")
# Prometheus adds these when it scrapes.
SCRAPED = {"job", "instance"}


def samples(page: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The samples of a metrics page by metric name."""
    samples_by_metric: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(page):
        samples_by_metric.setdefault(family.name, [])
        for sample in family.samples:
            samples_by_metric.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return samples_by_metric


def value(page: str, metric: str, **labels: str) -> float:
    return sum(
        number for sample_labels, number in samples(page).get(metric, []) if labels.items() <= sample_labels.items()
    )


def served(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=5).text


def is_served(port: int) -> bool:
    try:
        return bool(served(port))
    except httpx.HTTPError:
        return False


def expressions() -> list[str]:
    """The queries of the dashboard and of the alert rules."""
    dashboard = json.loads((DOCS / "dashboard.json").read_text())
    expressions_ = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((DOCS / "alerts.yml").read_text())
    return expressions_ + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def test_dashboard_and_alerts_use_existing_metrics_and_labels(world: World, processes: Processes) -> None:
    ports = {"worker": free_port(), "scheduler": free_port()}
    override_settings({"METRICS_TOKEN": TOKEN})
    for name, port in ports.items():
        processes.append(
            patina(name, environment={f"{name.upper()}_METRICS_PORT": str(port), "CATCH_UP_INTERVAL_SECONDS": "1"})
        )
    wait_until(lambda: all(map(is_served, ports.values())), description="the metrics of worker and scheduler")
    world.workers = True
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    wait_until(lambda: len(world.rows("people", person)) == 1)
    assert world.read("people", person).status_code == 200
    assert world.web.get("/v1/people/1/invoices").status_code == 401
    world.sandbox.simulate("update_invoice", invoice=world.invoice("ann@acme.test").id, total="300.00")
    wait_until(lambda: len(world.rows("people", person)) == 2)
    world.settle()
    actors.project.send("no number")
    wait_until(lambda: value(served(ports["worker"]), "dramatiq_message_errors_total", actor_name="project") == 1)

    wait_until(lambda: value(served(ports["worker"]), "patina_event_latency_seconds_count", vendor="xero") >= 2)
    worker = served(ports["worker"])
    assert value(worker, "dramatiq_messages_total", actor_name="drain") >= 2
    assert value(worker, "patina_vendor_request_duration_seconds_count", vendor="xero", outcome="ok") >= 2
    assert value(worker, "patina_projection_rows_total", change="written") >= 2
    assert value(worker, "patina_projection_batch_duration_seconds_count") >= 1
    assert "account" not in worker, "who scrapes a worker needs no token, and learns no account"
    wait_until(lambda: value(served(ports["scheduler"]), "patina_sync_runs_started_total", kind="catch_up") > 0)
    scheduler = served(ports["scheduler"])
    assert value(scheduler, "patina_scheduler_task_duration_seconds_count", task="sweep", outcome="ok") >= 1
    web = world.web.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    route = "/v1/{type}/{id}/invoices"
    assert value(web, "patina_http_request_duration_seconds_count", route=route, status="200") >= 1
    assert value(web, "patina_http_request_duration_seconds_count", route=route, status="401") >= 1
    assert value(web, "patina_events_total", vendor="xero", outcome="accepted") >= 2
    assert value(web, "patina_events_total", vendor="copper", outcome="accepted") >= 1

    labels_by_metric: dict[str, set[str]] = {}
    for page in (web, worker, scheduler):
        for name, metric_samples in samples(page).items():
            labels_by_metric.setdefault(name, set()).update(label for labels, _ in metric_samples for label in labels)
    for expression in expressions():
        for name in METRIC.findall(expression):
            assert name in labels_by_metric or name.removesuffix("_total") in labels_by_metric, (
                f"{name} is in no page: {expression}"
            )
        named = set(SELECTOR.findall(expression)) | {
            label.strip() for label_list in BY.findall(expression) for label in label_list.split(",")
        }
        labels = set().union(
            *(labels_by_metric[name] for name in METRIC.findall(expression) if name in labels_by_metric), SCRAPED
        )
        samples_there = all(labels_by_metric.get(name) for name in METRIC.findall(expression))
        assert not samples_there or named <= labels, f"{named - labels} are no labels of it: {expression}"


def test_every_alert_has_a_runbook() -> None:
    rules = yaml.safe_load((DOCS / "alerts.yml").read_text())
    names = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    runbook = (DOCS.parent / "deploy.md").read_text()
    assert len(names) == len(set(names))
    for name in names:
        assert f"### {name}\n" in runbook, f"docs/deploy.md says nothing of {name}"


def test_a_correlation_id_follows_an_event_from_its_webhook_to_its_rows(
    world: World, processes: Processes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    override_settings({"LOG_LEVEL": "info", "LOG_FORMAT": "json"})
    from runtime import logs

    logs.configure("web")
    log_path = tmp_path / "worker.log"
    with log_path.open("wb") as log:
        processes.append(patina("worker", stderr=log.fileno()))
    world.workers = True
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    wait_until(lambda: len(world.rows("people", person)) == 1)

    def lines(text: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    accepted = {line["correlation"] for line in lines(capfd.readouterr().err) if line["event"] == "webhook.accepted"}
    assert len(accepted) >= 2

    def followed(event: str) -> set[str]:
        id_lists = [
            line.get("correlation", "").split() for line in lines(log_path.read_text()) if line["event"] == event
        ]
        return {id_ for ids in id_lists for id_ in ids}

    wait_until(lambda: accepted <= followed("events.applied"), description="each delivery's id where it is applied")
    assert accepted & followed("marks.projected"), "and where its rows are projected"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """An OpenTelemetry HTTP collector; yields the received spans, each with its service name."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            export = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            for group in export.resource_spans:
                service = next(
                    attribute.value.string_value
                    for attribute in group.resource.attributes
                    if attribute.key == "service.name"
                )
                spans.extend((service, span) for scope in group.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    yield spans
    server.shutdown()
    server.server_close()


def test_a_trace_spans_from_the_webhook_to_the_projection(
    collector: list[Any], world: World, processes: Processes
) -> None:
    processes.append(patina("worker"))
    world.workers = True
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    # Of several events at once, one trace may project what another has applied.
    world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    wait_until(lambda: world.rows("people", person)[0]["status"] == "PAID")

    def traced() -> bool:
        ways: dict[bytes, set[tuple[str, str]]] = {}
        for service, span in list(collector):
            ways.setdefault(span.trace_id, set()).add((service, span.name))
        return any(
            {
                ("patina-web", "POST /webhooks/xero"),
                ("patina-worker", "events.apply"),
                ("patina-worker", "vendor.call"),
                ("patina-worker", "projection.batch"),
            }
            <= trace
            for trace in ways.values()
        )

    wait_until(traced, description="one trace through web and worker")
    spans = " ".join(str(span) for _, span in collector)
    assert "@acme.test" not in spans
    assert "/webhooks/copper/{token}" in spans, "the path's pattern, never the token in it"
