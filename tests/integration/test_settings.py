"""Settings: validation, required ones, and their documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.settings import Settings, SettingsError, settings
from tests.support.commands import patina

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "value", "meaning"),
    [
        ("DATABASE_URL", "mysql://x", "PostgreSQL 15 or newer"),
        ("REDIS_URL", "http://x", "Redis or Valkey 7.2 or newer"),
        ("PORT", "99999", "port that the web process listens on"),
        ("ENCRYPTION_KEYS", "short", "Fernet keys"),
        ("PUBLIC_URL", "http://patina.test", "where vendors and browsers reach Patina"),
        ("XERO_API_URL", "api.xero.com", "Xero's API host"),
        ("LOG_LEVEL", "loud", "minimum level that is logged"),
        ("SWEEP_INTERVAL_SECONDS", "soon", "seconds between sweeps"),
    ],
)
def test_a_malformed_setting_is_named_with_its_meaning(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, meaning: str
) -> None:
    monkeypatch.setenv(name, value)
    settings.clear()
    with pytest.raises(SettingsError, match=name) as caught:
        settings()
    assert meaning in str(caught.value)
    settings.clear()


@pytest.mark.parametrize(
    ("process", "name"),
    [("web", "XERO_WEBHOOK_KEYS"), ("worker", "XERO_CLIENT_SECRET"), ("scheduler", "XERO_CLIENT_ID")],
)
def test_a_process_without_a_required_setting_does_not_start(database: str, process: str, name: str) -> None:
    completed = patina(process, **{name: ""})
    assert completed.returncode == 1
    assert f"{name} is not set:" in completed.stderr
    assert "Traceback" not in completed.stderr


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_every_setting_is_documented_with_its_description_and_default() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        assert f"| `{name.upper()}` | {field.description} | {default} |" in page
