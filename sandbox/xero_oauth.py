"""Xero's OAuth 2.0: consent page, tokens with PKCE or Basic auth, refresh token rotation with grace, connections."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import timedelta
from html import escape
from urllib.parse import urlencode, urlsplit, urlunsplit
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from sandbox import tokens
from sandbox.query import Query
from sandbox.world import Authorisation, AuthorisationCode, Connection, Organisation, RefreshToken, World

ACCESS_TOKEN_LIFETIME = timedelta(minutes=30)
REFRESH_GRACE_PERIOD = timedelta(minutes=30)
REFRESH_TOKEN_LIFETIME = timedelta(days=60)
CODE_LIFETIME = timedelta(minutes=5)
SCOPES = {
    "openid",
    "profile",
    "email",
    "offline_access",
    "accounting.transactions",
    "accounting.transactions.read",
    "accounting.invoices",
    "accounting.invoices.read",
    "accounting.payments",
    "accounting.payments.read",
    "accounting.banktransactions",
    "accounting.banktransactions.read",
    "accounting.contacts",
    "accounting.contacts.read",
    "accounting.settings",
    "accounting.settings.read",
    "accounting.attachments",
    "accounting.attachments.read",
    "accounting.journals.read",
    "accounting.reports.read",
    "accounting.budgets.read",
}

CONSENT_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Sandbox Xero: allow access</title>
<meta name="viewport" content="width=device-width"><style>body{{font:16px/1.6 system-ui;max-width:34rem;
margin:3rem auto;padding:0 1rem;color:#1c2b2a}}button{{font:inherit;padding:.4rem 1rem;margin-right:.5rem}}
label{{display:block}}</style><h1>Sandbox Xero</h1><p>Signed in as {user}.</p><p>The app
<b>{client}</b> wants to read invoices and contacts of:</p><form method="post">{checkboxes}
<p><button name="answer" value="allow">Allow access</button>
<button name="answer" value="cancel">Cancel</button></p></form></html>"""


class XeroOAuth:
    """OAuth and OpenID Connect of the sandbox's Xero."""

    def __init__(self, world: World) -> None:
        self.world = world

    def _authorise_error(self, query: Mapping[str, str]) -> str | None:
        app = self.world.app
        if query.get("response_type") != "code":
            return "unsupported_response_type"
        if query.get("client_id") not in {app.client_id, app.public_client_id}:
            return "unauthorized_client"
        if urlsplit(query.get("redirect_uri", "")).scheme not in {"http", "https"}:
            return "invalid_redirect_uri"
        if query.get("code_challenge") and query.get("code_challenge_method") != "S256":
            return "invalid_request"
        if query.get("client_id") == app.public_client_id and not query.get("code_challenge"):
            return "invalid_request: a public app must send a code_challenge"
        unknown = sorted(set(query.get("scope", "").split()) - SCOPES)
        return f"invalid_scope: {' '.join(unknown)}" if unknown else None

    async def authorise(self, request: Request) -> Response:
        """The consent page; with `auto_consent`, consent is given without it."""
        query = dict(request.query_params)
        error = self._authorise_error(query)
        if error:
            return HTMLResponse(f"<h1>Error</h1><p>{escape(error)}</p>", 400)
        if self.world.app.auto_consent and query.get("prompt") != "page":
            tenants = self.world.app.consent_tenant_ids or list(self.world.organisations)
            return self._redirect_with_code(query, tenants)
        checkboxes = "".join(
            f'<label><input type="checkbox" name="tenant" value="{tenant.tenant_id}" checked> '
            f"{escape(tenant.name)}</label>"
            for tenant in self.world.organisations.values()
        )
        page = CONSENT_PAGE.format(
            client=escape(query["client_id"]), user=escape(self.world.app.consent_user), checkboxes=checkboxes
        )
        return HTMLResponse(page)

    async def decide(self, request: Request) -> Response:
        """Process the form of the consent page."""
        query = dict(request.query_params)
        if self._authorise_error(query):
            return HTMLResponse("<h1>Error</h1>", 400)
        form = await request.form()
        if form.get("answer") != "allow":
            return self._redirect(query, {"error": "access_denied"})
        selected = {str(value).lower() for value in form.getlist("tenant")}
        return self._redirect_with_code(
            query, [tenant for tenant in self.world.organisations if str(tenant) in selected]
        )

    def _redirect_with_code(self, query: Mapping[str, str], tenants: list[UUID]) -> Response:
        app, code = self.world.app, secrets.token_urlsafe(24)
        requested = query.get("scope", "").split()
        scope = " ".join(name for name in requested if not app.granted_scopes or name in app.granted_scopes)
        app.codes[code] = AuthorisationCode(
            query["client_id"],
            query["redirect_uri"],
            query.get("code_challenge", ""),
            scope,
            tenants,
            self.world.clock.now(),
            app.consent_user,
            query.get("nonce", ""),
        )
        return self._redirect(query, {"code": code, "scope": scope})

    def _redirect(self, query: Mapping[str, str], values: dict[str, str]) -> Response:
        """Redirect to the client; the redirect URI keeps its own query (RFC 6749, 3.1.2)."""
        if "state" in query:
            values = {**values, "state": query["state"]}
        parts = urlsplit(query["redirect_uri"])
        combined_query = "&".join(filter(None, (parts.query, urlencode(values))))
        return RedirectResponse(urlunsplit(parts._replace(query=combined_query)), 302)

    def _client_id(self, request: Request, form: Mapping[str, object]) -> str | None:
        """The client id of the request; None if the secret is missing or wrong."""
        app = self.world.app
        header = request.headers.get("authorization", "")
        if header.startswith("Basic "):
            expected = base64.b64encode(f"{app.client_id}:{app.client_secret}".encode())
            return app.client_id if hmac.compare_digest(header[6:].encode(), expected) else None
        secret = str(form.get("client_secret", ""))
        if form.get("client_id") == app.public_client_id and not secret:
            return app.public_client_id
        is_known = form.get("client_id") == app.client_id
        return app.client_id if is_known and hmac.compare_digest(secret.encode(), app.client_secret.encode()) else None

    async def token(self, request: Request) -> Response:
        """`/connect/token`: exchange a code or a refresh token for a new token set."""
        form = await request.form()
        client_id = self._client_id(request, form)
        if client_id is None:
            return JSONResponse({"error": "invalid_client"}, 400)
        if form.get("grant_type") == "authorization_code":
            return self._exchange(form, client_id, issuer_of(request))
        if form.get("grant_type") == "refresh_token":
            return self._refresh(str(form.get("refresh_token", "")), client_id, issuer_of(request))
        return JSONResponse({"error": "unsupported_grant_type"}, 400)

    def _exchange(self, form: Mapping[str, object], client_id: str, issuer: str) -> Response:
        app, now = self.world.app, self.world.clock.now()
        code = app.codes.pop(str(form.get("code", "")), None)
        if code is None or now - code.created_at > CODE_LIFETIME:
            return JSONResponse({"error": "invalid_grant"}, 400)
        if (code.redirect_uri, code.client_id) != (form.get("redirect_uri"), client_id):
            return JSONResponse({"error": "invalid_grant"}, 400)
        if code.challenge and not _is_verified(str(form.get("code_verifier", "")), code.challenge):
            return JSONResponse({"error": "invalid_grant"}, 400)
        authorisation = Authorisation(uuid4(), code.user, client_id, code.scope, now, code.nonce)
        app.authorisations[authorisation.id] = authorisation
        for tenant_id in code.tenants:
            app.connect(authorisation, tenant_id, now)
        return self._issue(authorisation, issuer)

    def _refresh(self, token: str, client_id: str, issuer: str) -> Response:
        now = self.world.clock.now()
        for authorisation in self.world.app.authorisations.values():
            refresh_token = authorisation.refresh.get(token)
            if refresh_token is None:
                continue
            is_expired = (
                refresh_token.replaced_at is not None and now - refresh_token.replaced_at > REFRESH_GRACE_PERIOD
            )
            if (
                is_expired
                or now - refresh_token.issued_at > REFRESH_TOKEN_LIFETIME
                or authorisation.client_id != client_id
            ):
                break
            refresh_token.replaced_at = refresh_token.replaced_at or now
            refresh_token.uses += 1
            return self._issue(authorisation, issuer)
        return JSONResponse({"error": "invalid_grant"}, 400)

    def _issue(self, authorisation: Authorisation, issuer: str) -> Response:
        now = self.world.clock.now()
        expires_at, scopes = now + ACCESS_TOKEN_LIFETIME, authorisation.scope.split()
        authorisation.access = {token: expiry for token, expiry in authorisation.access.items() if expiry > now}
        access = tokens.access_token(authorisation, issuer, now, expires_at)
        authorisation.access[access] = expires_at
        payload = {
            "access_token": access,
            "expires_in": int(ACCESS_TOKEN_LIFETIME.total_seconds()),
            "token_type": "Bearer",
        }
        if "openid" in scopes:
            payload["id_token"] = tokens.id_token(authorisation, issuer, now, expires_at, access)
        if "offline_access" in scopes:
            refresh = secrets.token_urlsafe(32)
            authorisation.refresh[refresh] = RefreshToken(now)
            payload["refresh_token"] = refresh
        return JSONResponse({**payload, "scope": authorisation.scope}, headers={"Cache-Control": "no-store"})

    async def revoke(self, request: Request) -> Response:
        """`/connect/revocation`: end the authorisation and all connections of its user."""
        form = await request.form()
        if self._client_id(request, form) is None:
            return JSONResponse({"error": "invalid_client"}, 400)
        app, token = self.world.app, str(form.get("token", ""))
        for authorisation in list(app.authorisations.values()):
            if token in authorisation.refresh:
                del app.authorisations[authorisation.id]
                for connection in app.connections_of(authorisation.user):
                    del app.connections[connection.id]
        return Response(status_code=200)

    async def discovery(self, request: Request) -> Response:
        """`/.well-known/openid-configuration`."""
        issuer = issuer_of(request)
        return JSONResponse(
            {
                "issuer": issuer,
                "authorization_endpoint": f"{issuer}/identity/connect/authorize",
                "token_endpoint": f"{issuer}/connect/token",
                "userinfo_endpoint": f"{issuer}/connect/userinfo",
                "revocation_endpoint": f"{issuer}/connect/revocation",
                "jwks_uri": f"{issuer}/.well-known/openid-configuration/jwks",
                "scopes_supported": sorted(SCOPES),
                "response_types_supported": ["code"],
                "grant_types_supported": ["authorization_code", "refresh_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": [tokens.ALGORITHM],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
                "code_challenge_methods_supported": ["S256"],
            }
        )

    async def key_set(self, _: Request) -> Response:
        """The keys that verify tokens."""
        return JSONResponse(tokens.key_set())

    async def user_info(self, request: Request) -> Response:
        """`/connect/userinfo`: the user who consented, as far as the scopes allow."""
        authorisation = self.authorisation_of(request)
        if authorisation is None or "openid" not in authorisation.scope.split():
            return unauthorised()
        user = tokens.user_id(authorisation.user)
        return JSONResponse({"sub": user.hex, "xero_userid": str(user), **tokens.profile(authorisation)})

    def authorisation_of(self, request: Request) -> Authorisation | None:
        """The authorisation of the request's bearer token; None if the token is not valid."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        now = self.world.clock.now()
        for authorisation in self.world.app.authorisations.values():
            if token in authorisation.access and authorisation.access[token] > now:
                return authorisation
        return None

    def organisation_of(self, authorisation: Authorisation, request: Request) -> Organisation | None:
        """The organisation in the header `xero-tenant-id`, if the token's user has connected it."""
        tenant_id = request.headers.get("xero-tenant-id", "").lower()
        for connection in self.world.app.connections_of(authorisation.user):
            if str(connection.tenant_id) == tenant_id:
                return self.world.organisations.get(connection.tenant_id)
        return None

    async def connections(self, request: Request) -> Response:
        """`GET /connections`: all connections of the user, or those of one authorisation (`authEventId`)."""
        authorisation = self.authorisation_of(request)
        if authorisation is None:
            return unauthorised()
        query = Query(request)
        auth_event_id = query.uuid("authEventId")
        query.refuse_unknown()
        payload = [
            self._connection_json(connection)
            for connection in self.world.app.connections_of(authorisation.user)
            if connection.tenant_id in self.world.organisations and auth_event_id in {None, connection.auth_event}
        ]
        return JSONResponse(payload)

    def _connection_json(self, connection: Connection) -> dict[str, str]:
        return {
            "id": str(connection.id),
            "authEventId": str(connection.auth_event),
            "tenantId": str(connection.tenant_id),
            "tenantType": "ORGANISATION",
            "tenantName": self.world.organisations[connection.tenant_id].name,
            "createdDateUtc": connection.created.strftime("%Y-%m-%dT%H:%M:%S.%f0"),
            "updatedDateUtc": connection.updated.strftime("%Y-%m-%dT%H:%M:%S.%f0"),
        }

    async def disconnect(self, request: Request) -> Response:
        """`DELETE /connections/{id}`: end one connection of the user."""
        authorisation = self.authorisation_of(request)
        if authorisation is None:
            return unauthorised()
        for connection in self.world.app.connections_of(authorisation.user):
            if str(connection.id) == request.path_params["id"].lower():
                del self.world.app.connections[connection.id]
                return Response(status_code=204)
        return Response(status_code=404)


def _is_verified(verifier: str, challenge: str) -> bool:
    """Whether a code verifier matches an S256 challenge (RFC 7636)."""
    proof = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
    return hmac.compare_digest(proof, challenge.encode())


def issuer_of(request: Request) -> str:
    """The base URL of the sandbox's Xero, which is the issuer of its tokens."""
    return f"{request.url.scheme}://{request.url.netloc}/xero"


def _problem(status: int, title: str, detail: str) -> Response:
    body: dict[str, object] = {"Type": None, "Title": title, "Status": status, "Detail": detail}
    return JSONResponse({**body, "Instance": str(uuid4()), "Extensions": {}}, status)


def unauthorised() -> Response:
    """Xero's 401 for an unknown or expired token."""
    return _problem(401, "Unauthorized", "TokenExpired: token expired or unknown")


def scope_missing() -> Response:
    """Xero's 401 for a token whose scope does not cover the call."""
    response = _problem(401, "Unauthorized", "AuthorizationUnsuccessful")
    response.headers["WWW-Authenticate"] = 'Bearer error="insufficient_scope"'
    return response


def not_connected() -> Response:
    """Xero's 403 for an organisation that the token's user has not connected."""
    return _problem(403, "Forbidden", "AuthenticationUnsuccessful")
