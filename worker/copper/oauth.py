"""Copper's OAuth 2.0 by requests-oauthlib: who is in front of the browser. Open to every user, so no proof of an admin.

The callback comes as a cross-site POST, so no cookie comes with it: `state` is kept on the server.
"""

from __future__ import annotations

import os

import requests
from oauthlib.oauth2 import OAuth2Error
from requests_oauthlib import OAuth2Session

from runtime.settings import settings
from worker.copper import identity
from worker.copper.client import CopperClient
from worker.copper.identity import CopperIdentity
from worker.errors import PassingError, VendorError
from worker.vendor import prepare, timeouts

SCOPE = ["developer/v1/all"]


def _session(redirect_uri: str) -> OAuth2Session:
    chosen = settings()
    chosen.need("copper_client_id", "copper_client_secret")
    if chosen.uses_loopback_xero:
        os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    oauth = OAuth2Session(chosen.copper_client_id, redirect_uri=redirect_uri, scope=SCOPE)
    prepare(oauth)
    return oauth


def begin(redirect_uri: str) -> tuple[str, str]:
    """Where to send the browser, and the state to keep."""
    url, state = _session(redirect_uri).authorization_url(f"{settings().copper_login_url}/oauth/authorize")
    return url, state


def finish(redirect_uri: str, code: str) -> CopperIdentity:
    """Who came back with `code`. The token is used for this and forgotten."""
    chosen = settings()
    try:
        token = _session(redirect_uri).fetch_token(
            f"{chosen.copper_login_url}/oauth/token",
            code=code,
            client_secret=chosen.copper_client_secret,
            include_client_id=True,
            timeout=timeouts(),
        )
    except OAuth2Error as error:
        raise VendorError(f"Copper refused the sign-in: {error.error}") from None
    except (requests.RequestException, ValueError) as error:
        raise PassingError(f"Copper did not answer to the sign-in ({type(error).__name__})") from None
    return identity.of_caller(lambda counter: CopperClient.of_token(token["access_token"], counter))
