"""Xero's OAuth 2.0 by requests-oauthlib: authorise with PKCE and state, exchange, refresh once."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import Any

import requests
import structlog
from oauthlib.oauth2 import OAuth2Error, WebApplicationClient
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from runtime.settings import settings
from store import accounts
from store.accounts import Grant
from store.database import transaction
from worker.errors import PassingError, ReconnectNeededError, VendorError
from worker.parsing import whole_number
from worker.vendor import call, prepare, timeouts
from worker.xero import scopes

log = structlog.get_logger()
EARLY_SECONDS = 120
LIFETIME, MAX_LIFETIME = 1_800, 86_400


@dataclass(frozen=True)
class Authorisation:
    """What is needed between sending somebody to Xero and their return."""

    url: str
    state: str
    verifier: str
    redirect_uri: str

    def __repr__(self) -> str:
        return "Authorisation(…)"


def session(token: dict[str, Any] | None = None, redirect_uri: str | None = None) -> OAuth2Session:
    """An OAuth session of our app, on the process's shared connections."""
    chosen = settings()
    chosen.need("xero_client_id", "xero_client_secret")
    if chosen.uses_loopback_xero:
        os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    os.environ["OAUTHLIB_RELAX_TOKEN_SCOPE"] = "1"
    oauth = OAuth2Session(
        chosen.xero_client_id, token=token, redirect_uri=redirect_uri, scope=chosen.xero_scopes.split()
    )
    prepare(oauth)
    for moment in ("access_token_response", "refresh_token_response"):
        oauth.register_compliance_hook(moment, _only_readable_fields)
    return oauth


def _only_readable_fields(answer: requests.Response) -> requests.Response:
    """A token answer without the fields that cannot be read, so that a new refresh token is not lost over them.

    A lifetime that was not given is 30 minutes (Xero docs: OAuth 2.0, token types).
    """
    try:
        token = answer.json()
    except ValueError:
        return answer
    if not isinstance(token, dict) or "error" in token:
        return answer
    kept = {name: value for name, value in token.items() if isinstance(value, str) and value}
    try:
        seconds = whole_number(token.get("expires_in"))
    except ValueError:
        seconds = None
    lifetime = seconds if seconds is not None and 0 < seconds <= MAX_LIFETIME else LIFETIME
    kept.pop("expires_at", None)
    answer._content = json.dumps({**kept, "expires_in": lifetime}).encode()
    return answer


def begin(redirect_uri: str) -> Authorisation:
    """Where to send the admin's browser, with a fresh state and code verifier."""
    oauth = session(redirect_uri=redirect_uri)
    proof = WebApplicationClient(settings().xero_client_id or "")
    verifier = proof.create_code_verifier(64)
    challenge = proof.create_code_challenge(verifier, "S256")
    url, state = oauth.authorization_url(
        f"{settings().xero_login_url}/identity/connect/authorize",
        code_challenge=challenge,
        code_challenge_method="S256",
    )
    return Authorisation(url, state, verifier, redirect_uri)


def _token_call(what: str, ask: Any) -> dict[str, Any]:
    chosen = settings()
    basic = HTTPBasicAuth(chosen.xero_client_id or "", chosen.xero_client_secret or "")
    try:
        return dict(ask(f"{chosen.xero_identity_url}/connect/token", auth=basic, timeout=timeouts()))
    except OAuth2Error as error:
        if error.error in {"invalid_grant", "unauthorized_client"}:
            raise ReconnectNeededError(f"Xero refused to {what}: {error.error}") from None
        raise VendorError(f"Xero refused to {what}: {error.error}", 300) from None
    except (requests.RequestException, ValueError) as error:
        raise PassingError(f"Xero did not answer to {what} ({type(error).__name__})", 5) from None


def exchange(held: Authorisation, code: str) -> dict[str, Any]:
    """The token set for the code that Xero sent back."""
    oauth = session(redirect_uri=held.redirect_uri)

    def ask(url: str, **more: Any) -> dict[str, Any]:
        return dict(oauth.fetch_token(url, code=code, code_verifier=held.verifier, **more))

    token = _token_call("exchange the code", ask)
    if "refresh_token" not in token:
        raise VendorError("Xero gave no refresh token: is offline_access among the scopes?")
    return token


def revoke(token: dict[str, Any]) -> None:
    """End an authorisation and all connections of its user at Xero; one that ended already is fine.

    Source: Xero docs, OAuth 2.0, revoking tokens.
    """
    chosen = settings()
    chosen.need("xero_client_id", "xero_client_secret")
    basic = HTTPBasicAuth(chosen.xero_client_id or "", chosen.xero_client_secret or "")
    url, form = f"{chosen.xero_identity_url}/connect/revocation", {"token": token["refresh_token"]}
    plain = prepare(requests.Session())
    answer = call(lambda: plain.post(url, data=form, auth=basic, timeout=timeouts(), stream=True))
    if answer.status_code >= 400:
        raise VendorError(f"Xero answered {answer.status_code} to the revocation")


def keep_alive(idle_seconds: float, limit: int) -> int:
    """Refresh grants that were not for a while, well before their 60 days end; returns how many were.

    One that Xero refuses is marked, so that the admin hears of it; one that it does not answer for waits for
    the next time.
    """
    with transaction() as database:
        idle = accounts.idle_grants(database, idle_seconds, limit)
    done = 0
    for account_id, grant_id in idle:
        try:
            with transaction() as database:
                known = accounts.grant(database, account_id, grant_id)
            fresh(account_id, grant_id, unlike=known.token["access_token"])
            done += 1
        except LookupError:
            log.info("grant.gone", account=account_id, grant=grant_id)
        except VendorError as error:
            log.warning("grant.not_refreshed", account=account_id, grant=grant_id, error=str(error))
    return done


def fresh(account_id: int, grant_id: int, *, unlike: str | None = None) -> Grant:
    """The grant with an access token that still lasts, refreshed when needed.

    One refresh at a time across all processes: the row is locked, looked at again, refreshed and
    committed. When the answer is lost on the way, the old refresh token works for 30 minutes more
    (Xero docs: OAuth 2.0), so the next try heals it. `unlike` is an access token that Xero refused:
    a grant that still holds it is refreshed whatever its clock says.
    """
    with transaction() as database:
        held = accounts.grant(database, account_id, grant_id)
    if _lasts(held, unlike):
        return held
    with transaction() as database:
        held = accounts.grant(database, account_id, grant_id, lock=True)
        if _lasts(held, unlike):
            return held
        try:
            token = refresh(held.token)
        except ReconnectNeededError:
            accounts.mark_grant(database, account_id, grant_id, "reconnect")
            database.commit()
            log.warning("grant.lost", account=account_id, grant=grant_id)
            raise
        accounts.replace_token(database, held, token, scopes.identity(token))
        refreshed = accounts.grant(database, account_id, grant_id)
    log.info("grant.refreshed", account=account_id, grant=grant_id)
    return refreshed


def _lasts(held: Grant, unlike: str | None) -> bool:
    if held.status == "reconnect":
        raise ReconnectNeededError("the connection to Xero ended: an admin must reconnect")
    return lasts(held.token) and held.token["access_token"] != unlike


def lasts(token: dict[str, Any]) -> bool:
    """Whether an access token can still be used for a while, by its own expiry."""
    return float(token["expires_at"]) - time.time() > EARLY_SECONDS


def refresh(token: dict[str, Any]) -> dict[str, Any]:
    """The token set that replaces `token`; raises `ReconnectNeededError` when Xero knows it no more."""
    oauth = session(token=token)

    def ask(url: str, **more: Any) -> dict[str, Any]:
        return dict(oauth.refresh_token(url, refresh_token=token["refresh_token"], **more))

    return _token_call("refresh the connection", ask)
