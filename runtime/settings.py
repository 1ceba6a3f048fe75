"""Settings, read from the environment once and checked before anything starts."""

from __future__ import annotations

import os
import re
from functools import cached_property, lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import psycopg
from cryptography.fernet import Fernet
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Words = Annotated[tuple[str, ...], NoDecode]
ANY = "*"
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
HOST_NAME = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:]{2,45}")
Network = IPv4Network | IPv6Network


class SettingsError(Exception):
    """One or more settings are missing or malformed; the text names each and says what it is for."""


class Settings(BaseSettings):
    """Everything an operator can set. Names in the environment are the field names in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    patina_home: Path = Field(Path(".patina"), description="folder of the embedded services and local keys")
    database_url: str | None = Field(
        None, description="PostgreSQL 15 or newer, in any form that libpq reads: postgresql://user:password@host/name"
    )
    database_pooler: bool = Field(
        False, description="whether DATABASE_URL leads to PgBouncer in transaction mode: nothing outlives a transaction"
    )
    redis_url: str | None = Field(None, description="Redis or Valkey 7.2 or newer, redis://host:6379/0 or unix:///path")
    embedded_services: bool = Field(
        False,
        description="whether to run PostgreSQL and Redis here where their addresses are unset; to try it out",
    )
    redis_namespace: str = Field("patina", pattern=r"^[a-z0-9_-]{1,40}$", description="prefix of Redis keys")
    encryption_keys: Words = Field((), description="Fernet keys for secrets at rest, newest first, separated by commas")
    public_url: str = Field("http://127.0.0.1:8700", description="where vendors and browsers reach Patina")
    allowed_hosts: Words = Field(
        (), description="host names, separated by commas, that requests may ask for besides PUBLIC_URL's and loopback"
    )
    trusted_proxies: Words = Field(
        (),
        description="addresses or networks of the proxies before the web process, separated by commas; X-Forwarded-For"
        " is read from these alone",
    )
    web_connections: int = Field(
        4_000, ge=10, le=100_000, description="connections that a web process serves at once; others are answered 503"
    )
    web_host: str = Field("127.0.0.1", description="address that the web process listens on")
    port: int = Field(8700, ge=1, le=65535, description="port that the web process listens on")

    xero_client_id: str | None = Field(None, description="client id of the Xero app")
    xero_client_secret: str | None = Field(None, description="client secret of the Xero app")
    xero_webhook_keys: Words = Field(
        (), description="signing keys of the Xero webhook, separated by commas; two while one is rotated"
    )
    xero_scopes: str = Field(
        "offline_access accounting.invoices.read accounting.contacts.read accounting.settings.read",
        description="scopes asked of Xero, separated by spaces",
    )
    xero_login_url: str = Field("https://login.xero.com", description="Xero's sign-in host")
    xero_identity_url: str = Field("https://identity.xero.com", description="Xero's token host")
    xero_api_url: str = Field("https://api.xero.com", description="Xero's API host")
    copper_api_url: str = Field("https://api.copper.com/developer_api/v1", description="base of Copper's developer API")
    copper_login_url: str = Field("https://app.copper.com", description="Copper's sign-in host")
    copper_client_id: str | None = Field(None, description="client id of the Copper app; unset: no sign-in with Copper")
    copper_client_secret: str | None = Field(None, description="client secret of the Copper app")
    copper_accounts: Words = Field(
        (),
        description="ids of the Copper accounts that may connect without a set-up code, separated by commas; "
        "*: any; unset: none",
    )
    panel_origins: Words = Field(
        (), description="origins that may embed the panel, separated by commas; unset: the one of COPPER_LOGIN_URL"
    )
    copper_webhook_url: str | None = Field(
        None, description="where Copper posts notifications, when that is not PUBLIC_URL"
    )

    worker_processes: int = Field(2, ge=1, le=64, description="processes of `patina worker`")
    worker_threads: int = Field(4, ge=1, le=64, description="threads of each worker process")
    sweep_seconds: float = Field(15, ge=0.2, le=600, description="seconds between sweeps for waiting work")
    lease_seconds: int = Field(120, ge=2, le=3600, description="seconds a worker may hold inbox events")
    event_attempts: int = Field(12, ge=1, le=100, description="tries before an event is quarantined")
    catch_up_seconds: int = Field(900, ge=1, le=86_400, description="seconds between catch-ups of an account")
    reconcile_hour: int = Field(2, ge=0, le=23, description="hour (UTC) from which accounts are reconciled in full")
    reconcile_spread_hours: float = Field(4, ge=0, le=20, description="hours over which the accounts are spread")
    rotation_seconds: int = Field(300, ge=1, le=86_400, description="seconds between two turns of the relations")
    rotation_calls: int = Field(60, ge=1, le=1_000, description="Copper calls that one turn of the relations may make")
    relations_age_seconds: int = Field(
        3_600, ge=0, le=30 * 86_400, description="age at which relations are read again when somebody looks"
    )
    history_seconds: int = Field(3_600, ge=1, le=86_400, description="seconds between two turns of history look-ups")
    history_calls: int = Field(20, ge=0, le=500, description="history look-ups a turn and organisation; 0: none")
    history_days: int = Field(30, ge=1, le=3_650, description="age in days up to which invoices are looked up")
    grant_idle_days: float = Field(7, ge=0, le=50, description="days after which an idle Xero grant is refreshed")
    inbox_days: int = Field(30, ge=1, le=3_650, description="days that finished events are kept")
    quarantine_days: int = Field(
        180, ge=1, le=3_650, description="days that events wait for a person, then are dropped"
    )
    meter_days: int = Field(400, ge=40, le=3_650, description="days that call meters and ended runs are kept")

    xero_minute_limit: int = Field(60, ge=1, le=1_000, description="calls a minute and Xero organisation")
    xero_concurrent_limit: int = Field(5, ge=1, le=100, description="calls at once and Xero organisation")
    xero_day_limit: int = Field(
        5_000, ge=4, le=1_000_000, description="calls a day and Xero organisation; 1000 on the Starter tier"
    )
    xero_app_minute_limit: int = Field(10_000, ge=1, le=100_000, description="calls a minute of the whole Xero app")
    copper_minute_limit: int = Field(180, ge=1, le=10_000, description="calls a minute and Copper account")
    copper_notifications_minute_limit: int = Field(
        3_000,
        ge=1,
        le=1_000_000,
        description="changed records that notifications of a Copper account may name a minute; more cost a catch-up",
    )
    copper_notifications_day_limit: int = Field(
        100_000, ge=1, le=100_000_000, description="the same a day, which bounds what one account can have stored"
    )
    limit_window_seconds: float = Field(
        60,
        gt=0,
        le=60,
        description="seconds of the vendors' minute; fewer only against a fast sandbox",
    )
    egress_allowance_gb: float = Field(
        10, gt=0, description="gigabytes a month that the Xero plan includes: Core 10, Plus 50, Advanced 250"
    )
    page_seconds: float = Field(
        10, ge=0.1, le=300, description="seconds that one statement of a page may take; a page may take twice that"
    )
    session_idle_hours: float = Field(
        12, ge=0.25, le=720, description="hours without use after which a browser must sign in again"
    )
    session_days: float = Field(
        7, ge=0.05, le=90, description="days after which a browser must sign in again, however much it is used"
    )
    api_minute_limit: int = Field(
        6_000, ge=1, le=10_000_000, description="API calls a minute, key and web process; the same for an address"
    )
    page_minute_limit: int = Field(
        600, ge=1, le=1_000_000, description="pages a minute, session and web process; the same for an account"
    )
    metrics_token: str | None = Field(None, min_length=16, description="bearer token of /metrics; unset: not served")
    metrics_host: str = Field("127.0.0.1", description="address of the worker's and the scheduler's metrics")
    worker_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port of the worker's metrics; unset: not served"
    )
    scheduler_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port of the scheduler's metrics; unset: not served"
    )

    connect_timeout: float = Field(5, gt=0, le=60, description="seconds to connect to a vendor")
    read_timeout: float = Field(30, gt=0, le=300, description="seconds to wait for a vendor's answer")
    interactive_connect_timeout: float = Field(
        2, gt=0, le=60, description="seconds to connect to a vendor while a person waits for the answer"
    )
    interactive_read_timeout: float = Field(
        5, gt=0, le=60, description="seconds to wait for a vendor's answer while a person waits for it; one try"
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="console, json, or auto: console on a terminal and JSON elsewhere"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")

    @field_validator(
        *("encryption_keys", "xero_webhook_keys", "panel_origins", "copper_accounts", "trusted_proxies"),
        "allowed_hosts",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("encryption_keys")
    @classmethod
    def _fernet(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            try:
                Fernet(key)
            except ValueError:
                raise ValueError("each key must be 32 random bytes in url-safe base64") from None
        return keys

    @field_validator("copper_accounts")
    @classmethod
    def _account_ids(cls, ids: tuple[str, ...]) -> tuple[str, ...]:
        if any(one != ANY and not (one.isascii() and one.isdigit()) for one in ids):
            raise ValueError("must be numbers separated by commas, or *")
        return ids

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            try:
                network = ip_network(proxy, strict=False)
            except ValueError:
                raise ValueError("each must be an address or a network, such as 10.0.0.7 or 172.16.0.0/12") from None
            if network.prefixlen == 0:
                raise ValueError("a network of all addresses would let anybody name their own")
        return proxies

    @field_validator("allowed_hosts")
    @classmethod
    def _host_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(host.lower().strip("[]") for host in hosts)
        if not all(HOST_NAME.fullmatch(name) for name in names):
            raise ValueError("each must be a host name without a port, such as patina.internal")
        return names

    @field_validator("panel_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
            if not safe or origin != f"{parts.scheme}://{parts.netloc}" or set(origin) & set(" ;,'*"):
                raise ValueError("each must be an https origin, such as https://app.copper.com")
        return origins

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, url: str | None) -> str | None:
        scheme, _, rest = (url or "postgresql://").partition("://")
        if scheme not in {"postgresql", "postgres", "postgresql+psycopg"} or (url and "://" not in url):
            raise ValueError("must start with postgresql://")
        try:
            conninfo_to_dict(f"postgresql://{rest}")
        except psycopg.Error:
            # libpq's own text repeats the address, with its password.
            raise ValueError("not an address that PostgreSQL's libpq can read") from None
        return url

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, url: str | None) -> str | None:
        if url and urlsplit(url).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must start with redis://, rediss:// or unix://")
        return url

    @field_validator(
        "xero_login_url", "xero_identity_url", "xero_api_url", "copper_api_url", "copper_login_url", "public_url"
    )
    @classmethod
    def _web_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http(s) address")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError("must be https, unless it is on this machine (127.0.0.1)")
        return url.rstrip("/")

    def need(self, *names: str) -> None:
        """Raise `SettingsError` naming every setting of `names` that is unset, with its meaning."""
        missing = [name for name in names if not getattr(self, name)]
        if missing:
            raise SettingsError("\n".join(f"{name.upper()} is not set: {meaning(name)}." for name in missing))

    def admits(self, copper_account_id: int) -> bool:
        """Whether a Copper account may connect without a set-up code."""
        return bool({ANY, str(copper_account_id)} & set(self.copper_accounts))

    @property
    def framing_origins(self) -> tuple[str, ...]:
        """Which origins may embed the panel: Copper's own, unless others are named."""
        parts = urlsplit(self.copper_login_url)
        return self.panel_origins or (f"{parts.scheme}://{parts.netloc}",)

    @cached_property
    def proxy_networks(self) -> tuple[Network, ...]:
        """The networks of TRUSTED_PROXIES."""
        return tuple(ip_network(proxy, strict=False) for proxy in self.trusted_proxies)

    @cached_property
    def hosts(self) -> frozenset[str]:
        """Every host name that a request may ask for."""
        urls = (self.public_url, self.copper_webhook_url or self.public_url)
        return frozenset({*LOOPBACK, *self.allowed_hosts, *(urlsplit(url).hostname or "" for url in urls)})

    @property
    def is_https(self) -> bool:
        """Whether browsers reach Patina by TLS."""
        return self.public_url.startswith("https://")

    @cached_property
    def sign_in_origins(self) -> tuple[str, ...]:
        """Where the sign-in pages of Xero and Copper are served from, in order."""
        pages = (urlsplit(url) for url in (self.xero_login_url, self.copper_login_url))
        return tuple(sorted({f"{page.scheme}://{page.netloc}" for page in pages}))

    @property
    def uses_loopback_xero(self) -> bool:
        """Whether Xero's addresses lie on this machine, as with the sandbox."""
        return urlsplit(self.xero_identity_url).hostname in LOOPBACK


def meaning(name: str) -> str:
    """What a setting is for, in a phrase."""
    return Settings.model_fields[name].description or name


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings; raises `SettingsError` naming what is malformed."""
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = str(problem["loc"][0])
            said = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{name.upper()} is invalid: {said} ({meaning(name)}).")
        raise SettingsError("\n".join(lines)) from None


def override(values: dict[str, str]) -> None:
    """Put `values` into this process's environment and forget settings read before."""
    os.environ.update(values)
    settings.cache_clear()
