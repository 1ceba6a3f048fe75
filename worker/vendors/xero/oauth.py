"""Xero's OAuth 2.0 with requests-oauthlib: authorisation with PKCE and state, code exchange, token refresh."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests
import structlog
from oauthlib.oauth2 import OAuth2Error, WebApplicationClient
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from runtime.settings import settings
from store.accounts import xero_grants
from store.accounts.xero_grants import Grant
from store.db.database import transaction
from store.db.enums import GrantStatus
from worker.vendors.errors import AuthorizationLostError, TransientError, VendorError
from worker.vendors.http import call, configure_session, timeouts
from worker.vendors.parsing import parse_integer
from worker.vendors.xero import scopes

log = structlog.get_logger()
MIN_REMAINING_SECONDS = 120
DEFAULT_LIFETIME, MAX_LIFETIME = 1_800, 86_400


@dataclass(frozen=True)
class AuthorizationRequest:
    """An OAuth authorisation request: what is needed again when the browser returns from Xero."""

    url: str
    state: str
    code_verifier: str
    redirect_uri: str

    def __repr__(self) -> str:
        return "AuthorizationRequest(…)"


def create_session(token: dict[str, Any] | None = None, redirect_uri: str | None = None) -> OAuth2Session:
    """An OAuth session of our app, on the process's shared connections."""
    config = settings()
    config.require("xero_client_id", "xero_client_secret")
    if config.uses_loopback_xero:
        os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    os.environ["OAUTHLIB_RELAX_TOKEN_SCOPE"] = "1"
    oauth = OAuth2Session(
        config.xero_client_id, token=token, redirect_uri=redirect_uri, scope=config.xero_scopes.split()
    )
    configure_session(oauth)
    for hook_type in ("access_token_response", "refresh_token_response"):
        oauth.register_compliance_hook(hook_type, _drop_unreadable_fields)
    return oauth


def _drop_unreadable_fields(response: requests.Response) -> requests.Response:
    """Remove unreadable fields from a token response, because an error over them would lose the new refresh token.

    The default lifetime is 30 minutes (Xero docs: OAuth 2.0, token types).
    """
    try:
        token = response.json()
    except ValueError:
        return response
    if not isinstance(token, dict) or "error" in token:
        return response
    fields = {name: value for name, value in token.items() if isinstance(value, str) and value}
    try:
        seconds = parse_integer(token.get("expires_in"))
    except ValueError:
        seconds = None
    lifetime = seconds if seconds is not None and 0 < seconds <= MAX_LIFETIME else DEFAULT_LIFETIME
    fields.pop("expires_at", None)
    response._content = json.dumps({**fields, "expires_in": lifetime}).encode()
    return response


def begin(redirect_uri: str) -> AuthorizationRequest:
    """The authorisation request to open in the admin's browser, with a new state and code verifier."""
    oauth = create_session(redirect_uri=redirect_uri)
    pkce = WebApplicationClient(settings().xero_client_id or "")
    code_verifier = pkce.create_code_verifier(64)
    code_challenge = pkce.create_code_challenge(code_verifier, "S256")
    url, state = oauth.authorization_url(
        f"{settings().xero_login_url}/identity/connect/authorize",
        code_challenge=code_challenge,
        code_challenge_method="S256",
    )
    return AuthorizationRequest(url, state, code_verifier, redirect_uri)


def _request_token(action: str, send: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    config = settings()
    basic = HTTPBasicAuth(config.xero_client_id or "", config.xero_client_secret or "")
    try:
        return dict(send(f"{config.xero_identity_url}/connect/token", auth=basic, timeout=timeouts()))
    except OAuth2Error as error:
        if error.error in {"invalid_grant", "unauthorized_client"}:
            raise AuthorizationLostError(f"Xero refused to {action}: {error.error}") from None
        raise VendorError(f"Xero refused to {action}: {error.error}", 300) from None
    except (requests.RequestException, ValueError) as error:
        raise TransientError(f"Xero did not respond to the request to {action} ({type(error).__name__})", 5) from None


def exchange_code(request: AuthorizationRequest, code: str) -> dict[str, Any]:
    """The token set for the code that Xero sent back."""
    oauth = create_session(redirect_uri=request.redirect_uri)

    def send(url: str, **kwargs: Any) -> dict[str, Any]:
        return dict(oauth.fetch_token(url, code=code, code_verifier=request.code_verifier, **kwargs))

    token = _request_token("exchange the code", send)
    if "refresh_token" not in token:
        raise VendorError("Xero returned no refresh token: is offline_access among the scopes?")
    return token


def revoke(token: dict[str, Any]) -> None:
    """Revoke an authorisation and all connections of its user at Xero; does nothing if it has already ended.

    Source: Xero docs, OAuth 2.0, revoking tokens.
    """
    config = settings()
    config.require("xero_client_id", "xero_client_secret")
    basic = HTTPBasicAuth(config.xero_client_id or "", config.xero_client_secret or "")
    url, form = f"{config.xero_identity_url}/connect/revocation", {"token": token["refresh_token"]}
    http = configure_session(requests.Session())
    response = call(lambda: http.post(url, data=form, auth=basic, timeout=timeouts(), stream=True))
    if response.status_code >= 400:
        raise VendorError(f"Xero returned {response.status_code} for the revocation")


def refresh_idle_grants(idle_seconds: float, limit: int) -> int:
    """Refresh grants that have been idle, well before they expire after 60 days; returns how many were refreshed.

    A grant that Xero rejects is marked, so that the admin is notified. If Xero does not respond, the grant is tried
    again the next time.
    """
    with transaction() as session:
        idle = xero_grants.list_idle(session, idle_seconds, limit)
    refreshed = 0
    for account_id, grant_id in idle:
        try:
            with transaction() as session:
                grant = xero_grants.get(session, account_id, grant_id)
            get_valid_grant(account_id, grant_id, rejected_token=grant.token["access_token"])
            refreshed += 1
        except LookupError:
            log.info("grant.deleted", account=account_id, grant=grant_id)
        except VendorError as error:
            log.warning("grant.refresh_failed", account=account_id, grant=grant_id, error=str(error))
    return refreshed


def get_valid_grant(
    account_id: int, grant_id: int, *, rejected_token: str | None = None, known_grant: Grant | None = None
) -> Grant:
    """The grant with a valid access token, which is refreshed if needed. `known_grant` is the grant as just read.

    Only one process refreshes at a time: the row is locked, read again, refreshed and committed. If the response is
    lost, the old refresh token works for 30 more minutes (Xero docs: OAuth 2.0), so the next attempt succeeds. A grant
    that still has `rejected_token`, an access token that Xero has rejected, is refreshed even if it has not expired.
    """
    if known_grant is None:
        with transaction() as session:
            known_grant = xero_grants.get(session, account_id, grant_id)
    if _is_valid(known_grant, rejected_token):
        return known_grant
    with transaction() as session:
        grant = xero_grants.get(session, account_id, grant_id, lock=True)
        if _is_valid(grant, rejected_token):
            return grant
        try:
            token = refresh(grant.token)
        except AuthorizationLostError:
            xero_grants.set_status(session, account_id, grant_id, GrantStatus.NEEDS_REAUTH)
            session.commit()
            log.warning("grant.authorization_lost", account=account_id, grant=grant_id)
            raise
        xero_grants.replace_token(session, grant, token, scopes.grant_identity(token))
        refreshed_grant = xero_grants.get(session, account_id, grant_id)
    log.info("grant.refreshed", account=account_id, grant=grant_id)
    return refreshed_grant


def _is_valid(grant: Grant, rejected_token: str | None) -> bool:
    if grant.status == GrantStatus.NEEDS_REAUTH:
        raise AuthorizationLostError("the connection to Xero ended: an admin must reconnect")
    return is_token_valid(grant.token) and grant.token["access_token"] != rejected_token


def is_token_valid(token: dict[str, Any]) -> bool:
    """Whether an access token is valid for at least two more minutes."""
    return float(token["expires_at"]) - time.time() > MIN_REMAINING_SECONDS


def refresh(token: dict[str, Any]) -> dict[str, Any]:
    """The token set that replaces `token`; raises `AuthorizationLostError` if Xero no longer accepts it."""
    oauth = create_session(token=token)

    def send(url: str, **kwargs: Any) -> dict[str, Any]:
        return dict(oauth.refresh_token(url, refresh_token=token["refresh_token"], **kwargs))

    return _request_token("refresh the connection", send)
