"""Settings: read from the environment once, and validated before a process starts."""

from __future__ import annotations

import os
import re
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from runtime import database_address, redis_address
from runtime.process_values import once_per_process
from runtime.validation_messages import describe_error

CommaSeparated = Annotated[tuple[str, ...], NoDecode]
ANY_ACCOUNT = "*"
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
HOST_NAME = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:]{2,45}")
Network = IPv4Network | IPv6Network


class SettingsError(Exception):
    """One or more settings are missing or invalid; the message names each and describes it."""


class Settings(BaseSettings):
    """All settings. The environment variables are the field names in upper case."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    patina_home: Path = Field(Path(".patina"), description="directory of the embedded services and local keys")
    database_url: str | None = Field(
        None, description="PostgreSQL 15 or newer, in any form that libpq reads: postgresql://user:password@host/name"
    )
    read_database_url: str | None = Field(
        None, description="a standby that serves reads, in the same forms as DATABASE_URL; unset: the primary does"
    )
    read_max_lag_seconds: float = Field(
        10, ge=0.5, le=3_600, description="lag of the standby beyond which the primary serves reads"
    )
    database_pooler: bool = Field(
        False, description="whether DATABASE_URL points to PgBouncer in transaction mode, which keeps no session state"
    )
    redis_url: str | None = Field(
        None,
        description="Redis or Valkey 7.2 or newer: redis://host:6379/0, unix:///path or redis+sentinel://s1,s2/NAME",
    )
    embedded_services: bool = Field(
        False,
        description="whether to run PostgreSQL and Redis locally where their URLs are unset; for evaluation",
    )
    redis_namespace: str = Field("patina", pattern=r"^[a-z0-9_-]{1,40}$", description="prefix of Redis keys")
    encryption_keys: CommaSeparated = Field(
        (), description="Fernet keys for secrets at rest, newest first, separated by commas"
    )
    public_url: str = Field("http://127.0.0.1:8700", description="where vendors and browsers reach Patina")
    allowed_hosts: CommaSeparated = Field(
        (), description="host names that requests may use besides PUBLIC_URL's and loopback, separated by commas"
    )
    trusted_proxies: CommaSeparated = Field(
        (),
        description="addresses or networks of the proxies in front of the web process, separated by commas;"
        " X-Forwarded-For is only trusted from these",
    )
    web_max_connections: int = Field(
        4_000, ge=10, le=100_000, description="maximum concurrent connections of a web process; further ones get a 503"
    )
    web_host: str = Field("127.0.0.1", description="address that the web process listens on")
    port: int = Field(8700, ge=1, le=65535, description="port that the web process listens on")

    xero_client_id: str | None = Field(None, description="client ID of the Xero app")
    xero_client_secret: str | None = Field(None, description="client secret of the Xero app")
    xero_webhook_keys: CommaSeparated = Field(
        (), description="signing keys of the Xero webhook, separated by commas; two during a rotation"
    )
    xero_scopes: str = Field(
        "offline_access accounting.invoices.read accounting.contacts.read accounting.settings.read",
        description="OAuth scopes requested from Xero, separated by spaces",
    )
    xero_login_url: str = Field("https://login.xero.com", description="Xero's sign-in host")
    xero_identity_url: str = Field("https://identity.xero.com", description="Xero's token host")
    xero_api_url: str = Field("https://api.xero.com", description="Xero's API host")
    copper_api_url: str = Field(
        "https://api.copper.com/developer_api/v1", description="base URL of Copper's developer API"
    )
    copper_login_url: str = Field("https://app.copper.com", description="Copper's sign-in host")
    copper_client_id: str | None = Field(None, description="client ID of the Copper app; unset: no sign-in with Copper")
    copper_client_secret: str | None = Field(None, description="client secret of the Copper app")
    copper_accounts: CommaSeparated = Field(
        (),
        description="IDs of the Copper accounts that may connect without a set-up code, separated by commas; "
        "*: any; unset: none",
    )
    panel_origins: CommaSeparated = Field(
        (), description="origins that may embed the panel, separated by commas; unset: that of COPPER_LOGIN_URL"
    )
    copper_webhook_url: str | None = Field(None, description="base URL for Copper's webhooks; unset: PUBLIC_URL")

    worker_processes: int = Field(2, ge=1, le=64, description="processes of `patina worker`")
    worker_threads: int = Field(4, ge=1, le=64, description="threads of each worker process")
    sweep_interval_seconds: float = Field(5, ge=0.2, le=600, description="seconds between sweeps for pending work")
    lease_seconds: int = Field(
        8, ge=2, le=3600, description="seconds after which others take over the work of a worker that was killed"
    )
    event_max_attempts: int = Field(
        12, ge=1, le=100, description="attempts before an event is quarantined or a run step fails"
    )
    catch_up_interval_seconds: int = Field(900, ge=1, le=86_400, description="seconds between catch-ups of an account")
    reconcile_hour: int = Field(
        2, ge=0, le=23, description="hour (UTC) at which the nightly full reconciliations start"
    )
    reconcile_spread_hours: float = Field(
        4, ge=0, le=20, description="hours over which the accounts' reconciliations are spread"
    )
    relations_refresh_interval_seconds: int = Field(
        300, ge=1, le=86_400, description="seconds between background refreshes of relations"
    )
    relations_refresh_max_calls: int = Field(
        60, ge=1, le=1_000, description="Copper calls per background refresh of relations"
    )
    relations_max_age_seconds: int = Field(
        3_600, ge=0, le=30 * 86_400, description="age in seconds after which viewing a record refreshes its relations"
    )
    created_date_lookup_interval_seconds: int = Field(
        3_600, ge=1, le=86_400, description="seconds between batches of created-date look-ups in Xero's history"
    )
    created_date_lookup_max_calls: int = Field(
        20, ge=0, le=500, description="created-date look-ups per batch and organisation; 0: none"
    )
    created_date_lookup_max_age_days: int = Field(
        30, ge=1, le=3_650, description="age in days up to which the created dates of invoices are looked up"
    )
    field_write_interval_seconds: int = Field(
        300, ge=0, le=86_400, description="minimum seconds between two changes of a record's fields in Copper"
    )
    grant_max_idle_days: float = Field(
        7, ge=0, le=50, description="days without use after which a Xero grant is refreshed"
    )
    inbox_retention_days: int = Field(
        30, ge=1, le=3_650, description="days for which finished events and runs are kept"
    )
    quarantine_retention_days: int = Field(
        180, ge=1, le=3_650, description="days for which quarantined events are kept"
    )
    api_usage_retention_days: int = Field(400, ge=40, le=3_650, description="days for which API usage is kept")

    xero_calls_per_minute: int = Field(60, ge=1, le=1_000, description="Xero calls per minute and organisation")
    xero_max_concurrent_calls: int = Field(5, ge=1, le=100, description="concurrent Xero calls per organisation")
    xero_calls_per_day: int = Field(
        5_000, ge=4, le=1_000_000, description="Xero calls per day and organisation; 1000 on the Starter tier"
    )
    xero_app_calls_per_minute: int = Field(
        10_000, ge=1, le=100_000, description="Xero calls per minute of the whole app"
    )
    copper_calls_per_minute: int = Field(180, ge=1, le=10_000, description="Copper calls per minute and account")
    copper_webhook_records_per_minute: int = Field(
        3_000,
        ge=1,
        le=1_000_000,
        description="records that a Copper account's webhooks may report per minute; beyond that a catch-up is run",
    )
    copper_webhook_records_per_day: int = Field(
        100_000, ge=1, le=100_000_000, description="the same per day, which limits the stored events of one account"
    )
    rate_limit_window_seconds: float = Field(
        60,
        gt=0,
        le=60,
        description="length of the vendors' minute in seconds; lower it only for a fast sandbox",
    )
    xero_download_allowance_gb: float = Field(
        10, gt=0, description="gigabytes per month that the Xero plan includes: Core 10, Plus 50, Advanced 250"
    )
    page_statement_timeout_seconds: float = Field(
        10,
        ge=0.1,
        le=300,
        description="timeout in seconds of each SQL statement of a page; the whole page may take twice as long",
    )
    session_idle_timeout_hours: float = Field(
        12, ge=0.25, le=720, description="hours of inactivity after which a browser session ends"
    )
    session_max_age_days: float = Field(
        7, ge=0.05, le=90, description="days after which a browser session ends in any case"
    )
    api_requests_per_minute: int = Field(
        6_000,
        ge=1,
        le=10_000_000,
        description="API requests per minute, web process and key; the same limit applies per IP address",
    )
    page_requests_per_minute: int = Field(
        600,
        ge=1,
        le=1_000_000,
        description="page requests per minute, web process and session; the same limit applies per account",
    )
    metrics_token: str | None = Field(None, min_length=16, description="bearer token of /metrics; unset: not served")
    metrics_host: str = Field("127.0.0.1", description="address that the worker and scheduler serve metrics on")
    worker_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port of the worker's metrics; unset: not served"
    )
    scheduler_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port of the scheduler's metrics; unset: not served"
    )

    connect_timeout: float = Field(5, gt=0, le=60, description="seconds to connect to a vendor")
    read_timeout: float = Field(30, gt=0, le=300, description="seconds to wait for a vendor's response")
    interactive_connect_timeout: float = Field(
        2, gt=0, le=60, description="seconds to connect to a vendor while a user waits"
    )
    interactive_read_timeout: float = Field(
        5, gt=0, le=60, description="seconds to wait for a vendor's response while a user waits; there is no retry"
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="console, json, or auto: console on a terminal, otherwise JSON"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="minimum level that is logged")

    @field_validator(
        *("encryption_keys", "xero_webhook_keys", "panel_origins", "copper_accounts", "trusted_proxies"),
        "allowed_hosts",
        mode="before",
    )
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("encryption_keys")
    @classmethod
    def _check_fernet_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            try:
                Fernet(key)
            except ValueError:
                raise ValueError("each key must be 32 random bytes in url-safe base64") from None
        return keys

    @field_validator("copper_accounts")
    @classmethod
    def _check_account_ids(cls, ids: tuple[str, ...]) -> tuple[str, ...]:
        if any(value != ANY_ACCOUNT and not (value.isascii() and value.isdigit()) for value in ids):
            raise ValueError("must be numbers separated by commas, or *")
        return ids

    @field_validator("trusted_proxies")
    @classmethod
    def _check_networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            try:
                network = ip_network(proxy, strict=False)
            except ValueError:
                raise ValueError("each must be an address or a network, such as 10.0.0.7 or 172.16.0.0/12") from None
            if network.prefixlen == 0:
                raise ValueError("a network of all addresses would let every client forge its own address")
        return proxies

    @field_validator("allowed_hosts")
    @classmethod
    def _normalise_host_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(host.lower().strip("[]") for host in hosts)
        if not all(HOST_NAME.fullmatch(name) for name in names):
            raise ValueError("each must be a host name without a port, such as patina.internal")
        return names

    @field_validator("panel_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            is_secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
            if not is_secure or origin != f"{parts.scheme}://{parts.netloc}" or set(origin) & set(" ;,'*"):
                raise ValueError("each must be an https origin, such as https://app.copper.com")
        return origins

    @field_validator("database_url", "read_database_url")
    @classmethod
    def _check_database_url(cls, url: str | None) -> str | None:
        if url:
            database_address.parse(url)
        return url

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, url: str | None) -> str | None:
        if url:
            redis_address.check(url)
        return url

    @field_validator(
        "xero_login_url", "xero_identity_url", "xero_api_url", "copper_api_url", "copper_login_url", "public_url"
    )
    @classmethod
    def _normalise_http_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http(s) URL")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError("must be https, unless it is on this machine (127.0.0.1)")
        return url.rstrip("/")

    def require(self, *names: str) -> None:
        """Raise `SettingsError` naming and describing every setting of `names` that is unset."""
        missing = [name for name in names if not getattr(self, name)]
        if missing:
            raise SettingsError("\n".join(f"{name.upper()} is not set: {describe(name)}." for name in missing))

    def allows_account(self, copper_account_id: int) -> bool:
        """Whether a Copper account may connect without a set-up code."""
        return bool({ANY_ACCOUNT, str(copper_account_id)} & set(self.copper_accounts))

    @property
    def panel_frame_ancestors(self) -> tuple[str, ...]:
        """Origins that may embed the panel (CSP `frame-ancestors`): by default Copper's own."""
        parts = urlsplit(self.copper_login_url)
        return self.panel_origins or (f"{parts.scheme}://{parts.netloc}",)

    @cached_property
    def trusted_proxy_networks(self) -> tuple[Network, ...]:
        """TRUSTED_PROXIES as networks."""
        return tuple(ip_network(proxy, strict=False) for proxy in self.trusted_proxies)

    @cached_property
    def accepted_hosts(self) -> frozenset[str]:
        """All host names that a request may use."""
        urls = (self.public_url, self.copper_webhook_url or self.public_url)
        return frozenset({*LOOPBACK, *self.allowed_hosts, *(urlsplit(url).hostname or "" for url in urls)})

    @property
    def is_https(self) -> bool:
        """Whether browsers use TLS."""
        return self.public_url.startswith("https://")

    @cached_property
    def sign_in_origins(self) -> tuple[str, ...]:
        """Origins of the sign-in pages of Xero and Copper, sorted."""
        pages = (urlsplit(url) for url in (self.xero_login_url, self.copper_login_url))
        return tuple(sorted({f"{page.scheme}://{page.netloc}" for page in pages}))

    @property
    def uses_loopback_xero(self) -> bool:
        """Whether Xero's URLs point to this machine, as with the sandbox."""
        return urlsplit(self.xero_identity_url).hostname in LOOPBACK


def describe(name: str) -> str:
    """The description of a setting."""
    return Settings.model_fields[name].description or name


@once_per_process
def settings() -> Settings:
    """The process's settings; raises `SettingsError` naming the invalid ones."""
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = str(problem["loc"][0])
            lines.append(f"{name.upper()} is invalid: {describe_error(problem)} ({describe(name)}).")
        raise SettingsError("\n".join(lines)) from None


def override_settings(values: dict[str, str]) -> None:
    """Set environment variables of this process, and read the settings again at the next use."""
    os.environ.update(values)
    settings.clear()
