"""Copper's OAuth 2.0 with requests-oauthlib: identifies the user at the browser.

Every Copper user can authorise, so this does not prove that somebody is an admin. The callback is a cross-site POST,
to which browsers attach no cookie, so `state` is stored on the server.
"""

from __future__ import annotations

import os

import requests
from oauthlib.oauth2 import OAuth2Error
from requests_oauthlib import OAuth2Session

from runtime.settings import settings
from worker.vendors.copper import identity
from worker.vendors.copper.client import CopperClient
from worker.vendors.copper.identity import CopperIdentity
from worker.vendors.errors import TransientError, VendorError
from worker.vendors.http import configure_session, timeouts

SCOPE = ["developer/v1/all"]


def _create_session(redirect_uri: str) -> OAuth2Session:
    config = settings()
    config.require("copper_client_id", "copper_client_secret")
    if config.uses_loopback_xero:
        os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    oauth = OAuth2Session(config.copper_client_id, redirect_uri=redirect_uri, scope=SCOPE)
    configure_session(oauth)
    return oauth


def begin(redirect_uri: str) -> tuple[str, str]:
    """The URL to redirect the browser to, and the state to store."""
    url, state = _create_session(redirect_uri).authorization_url(f"{settings().copper_login_url}/oauth/authorize")
    return url, state


def exchange_code(redirect_uri: str, code: str) -> CopperIdentity:
    """The user who came back with `code`. The token is only used to identify the user, and not stored."""
    config = settings()
    try:
        token = _create_session(redirect_uri).fetch_token(
            f"{config.copper_login_url}/oauth/token",
            code=code,
            client_secret=config.copper_client_secret,
            include_client_id=True,
            timeout=timeouts(),
        )
    except OAuth2Error as error:
        raise VendorError(f"Copper refused the sign-in: {error.error}") from None
    except (requests.RequestException, ValueError) as error:
        raise TransientError(f"Copper did not respond to the sign-in ({type(error).__name__})") from None
    return identity.identify_owner(lambda counter: CopperClient.with_token(token["access_token"], counter))
