"""Access and identity tokens in Xero's format: JSON Web Tokens signed with RS256, and the key set to verify them."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from sandbox.world import Authorisation

KEY_ID = "patina-sandbox"
ALGORITHM = "RS256"


@lru_cache(maxsize=1)
def signing_key() -> rsa.RSAPrivateKey:
    """The signing key of this process, generated when the first token is signed."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


def key_set() -> dict[str, Any]:
    """The JSON Web Key Set to which the discovery document refers."""
    public = json.loads(RSAAlgorithm.to_jwk(signing_key().public_key()))
    return {"keys": [{**public, "kid": KEY_ID, "use": "sig", "alg": ALGORITHM}]}


def user_id(email: str) -> UUID:
    """The `xero_userid` of the user with an email address."""
    return uuid5(NAMESPACE_URL, f"xero-user:{email.casefold()}")


def _claims(authorisation: Authorisation, issuer: str, now: datetime, expires_at: datetime) -> dict[str, Any]:
    """The claims common to access and identity tokens."""
    user = user_id(authorisation.user)
    return {
        "nbf": int(now.timestamp()),
        "exp": int(expires_at.timestamp()),
        "iss": issuer,
        "sub": user.hex,
        "auth_time": int(authorisation.created.timestamp()),
        "xero_userid": str(user),
        "global_session_id": authorisation.id.hex,
    }


def _sign(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, signing_key(), ALGORITHM, headers={"kid": KEY_ID})


def access_token(authorisation: Authorisation, issuer: str, now: datetime, expires_at: datetime) -> str:
    """An access token; its `authentication_event_id` is the `authEventId` of this authorisation's connections."""
    return _sign(
        {
            **_claims(authorisation, issuer, now, expires_at),
            "aud": f"{issuer}/resources",
            "client_id": authorisation.client_id,
            "jti": uuid4().hex.upper(),
            "authentication_event_id": str(authorisation.id),
            "scope": authorisation.scope.split(),
        }
    )


def profile(authorisation: Authorisation) -> dict[str, Any]:
    """The claims about the user that the scopes `profile` and `email` grant."""
    scopes, email = authorisation.scope.split(), authorisation.user
    claims: dict[str, Any] = {}
    if "profile" in scopes:
        given_name, _, family_name = email.partition("@")[0].replace(".", " ").title().partition(" ")
        claims |= {"preferred_username": email, "given_name": given_name, "family_name": family_name or "Demo"}
    if "email" in scopes:
        claims["email"] = email
    return claims


def id_token(authorisation: Authorisation, issuer: str, now: datetime, expires_at: datetime, access: str) -> str:
    """An OpenID Connect identity token for the authorised app."""
    digest = hashlib.sha256(access.encode()).digest()
    claims = {
        **_claims(authorisation, issuer, now, expires_at),
        **profile(authorisation),
        "iat": int(now.timestamp()),
        "aud": authorisation.client_id,
        "sid": authorisation.id.hex,
        "at_hash": base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode(),
    }
    return _sign({**claims, "nonce": authorisation.nonce} if authorisation.nonce else claims)
