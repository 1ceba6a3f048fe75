"""Xero's OAuth 2.0: consent page, tokens with PKCE and Basic auth, rotation with grace, connections."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from html import escape
from urllib.parse import urlencode, urlsplit
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from sandbox.world import Authorisation, Connection, Organisation, PendingCode, RefreshToken, World

ACCESS = timedelta(minutes=30)
GRACE = timedelta(minutes=30)
REFRESH = timedelta(days=60)
CODE = timedelta(minutes=5)

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Sandbox Xero: allow access</title>
<meta name="viewport" content="width=device-width"><style>body{{font:16px/1.6 system-ui;max-width:34rem;
margin:3rem auto;padding:0 1rem;color:#1c2b2a}}button{{font:inherit;padding:.4rem 1rem;margin-right:.5rem}}
label{{display:block}}</style><h1>Sandbox Xero</h1><p>The app <b>{client}</b> wants to read invoices and
contacts of:</p><form method="post">{fields}{choices}<p><button name="answer" value="allow">Allow access</button>
<button name="answer" value="cancel">Cancel</button></p></form></html>"""


class XeroOAuth:
    """The identity side of the sandbox's Xero."""

    def __init__(self, world: World) -> None:
        self.world = world

    def _refusal(self, query: Mapping[str, str]) -> str | None:
        if query.get("response_type") != "code":
            return "unsupported_response_type"
        if query.get("client_id") != self.world.app.client_id:
            return "unauthorized_client"
        if urlsplit(query.get("redirect_uri", "")).scheme not in {"http", "https"}:
            return "invalid_redirect_uri"
        if query.get("code_challenge") and query.get("code_challenge_method") != "S256":
            return "invalid_request"
        return None

    async def authorise(self, request: Request) -> Response:
        """The consent page; with `auto` on, consent is given at once."""
        query = dict(request.query_params)
        refusal = self._refusal(query)
        if refusal:
            return HTMLResponse(f"<h1>Error</h1><p>{escape(refusal)}</p>", 400)
        if self.world.app.auto_consent and query.get("prompt") != "page":
            chosen = self.world.app.consent_to or list(self.world.organisations)
            return self._consent(query, chosen)
        choices = "".join(
            f'<label><input type="checkbox" name="tenant" value="{one.tenant_id}" checked> {escape(one.name)}</label>'
            for one in self.world.organisations.values()
        )
        page = PAGE.format(client=escape(query["client_id"]), fields="", choices=choices)
        return HTMLResponse(page)

    async def decide(self, request: Request) -> Response:
        """What the person on the consent page chose."""
        query = dict(request.query_params)
        if self._refusal(query):
            return HTMLResponse("<h1>Error</h1>", 400)
        form = await request.form()
        if form.get("answer") != "allow":
            return self._back(query, {"error": "access_denied"})
        wanted = [UUID(str(one)) for one in form.getlist("tenant")]
        return self._consent(query, [one for one in wanted if one in self.world.organisations])

    def _consent(self, query: Mapping[str, str], tenants: list[UUID]) -> Response:
        code = secrets.token_urlsafe(24)
        self.world.app.codes[code] = PendingCode(
            query["redirect_uri"],
            query.get("code_challenge", ""),
            query.get("scope", ""),
            tenants,
            self.world.clock.now(),
        )
        return self._back(query, {"code": code, "scope": query.get("scope", "")})

    def _back(self, query: Mapping[str, str], values: dict[str, str]) -> Response:
        if "state" in query:
            values = {**values, "state": query["state"]}
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode(values)}", 302)

    def _is_client(self, request: Request, form: Mapping[str, object]) -> bool:
        app = self.world.app
        header = request.headers.get("authorization", "")
        if header.startswith("Basic "):
            wanted = base64.b64encode(f"{app.client_id}:{app.client_secret}".encode()).decode()
            return hmac.compare_digest(header[6:], wanted)
        secret = str(form.get("client_secret", ""))
        return form.get("client_id") == app.client_id and hmac.compare_digest(secret, app.client_secret)

    async def token(self, request: Request) -> Response:
        """`/connect/token`: a code or a refresh token for a new token set."""
        form = await request.form()
        if not self._is_client(request, form):
            return JSONResponse({"error": "invalid_client"}, 400)
        if form.get("grant_type") == "authorization_code":
            return self._exchange(form)
        if form.get("grant_type") == "refresh_token":
            return self._refresh(str(form.get("refresh_token", "")))
        return JSONResponse({"error": "unsupported_grant_type"}, 400)

    def _exchange(self, form: Mapping[str, object]) -> Response:
        pending = self.world.app.codes.pop(str(form.get("code", "")), None)
        if pending is None or self.world.clock.now() - pending.made_at > CODE:
            return JSONResponse({"error": "invalid_grant"}, 400)
        if pending.redirect_uri != form.get("redirect_uri"):
            return JSONResponse({"error": "invalid_grant"}, 400)
        if pending.challenge:
            verifier = str(form.get("code_verifier", ""))
            proof = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
            if not hmac.compare_digest(proof.decode(), pending.challenge):
                return JSONResponse({"error": "invalid_grant"}, 400)
        made = Authorisation(uuid4(), pending.scope)
        self.world.app.authorisations[made.id] = made
        self._connect(made, pending.tenants)
        return self._issue(made)

    def _connect(self, made: Authorisation, tenants: list[UUID]) -> None:
        """Connections belong to the user: all authorisations share them, and one that exists keeps its id."""
        known = {one.tenant_id: one for held in self.world.app.authorisations.values() for one in held.connections}
        for tenant in tenants:
            connection = known.setdefault(tenant, Connection(uuid4(), tenant, self.world.clock.now()))
            connection.event = made.id
        for held in self.world.app.authorisations.values():
            held.connections = list(known.values())

    def _refresh(self, token: str) -> Response:
        now = self.world.clock.now()
        for held in self.world.app.authorisations.values():
            known = held.refresh.get(token)
            if known is None:
                continue
            late = known.replaced_at is not None and now - known.replaced_at > GRACE
            if late or now - known.issued_at > REFRESH:
                break
            known.replaced_at = known.replaced_at or now
            known.uses += 1
            return self._issue(held)
        return JSONResponse({"error": "invalid_grant"}, 400)

    def _issue(self, held: Authorisation) -> Response:
        now = self.world.clock.now()
        held.access = {token: end for token, end in held.access.items() if end > now}
        access, refresh = self._access_token(held, now), secrets.token_urlsafe(32)
        held.access[access] = now + ACCESS
        answer = {"access_token": access, "expires_in": int(ACCESS.total_seconds()), "token_type": "Bearer"}
        if "offline_access" in held.scope.split():
            held.refresh[refresh] = RefreshToken(now)
            answer["refresh_token"] = refresh
        return JSONResponse({**answer, "scope": held.scope}, headers={"Cache-Control": "no-store"})

    def _access_token(self, held: Authorisation, now: datetime) -> str:
        """A JWT (Xero docs: token types), signed with a key that nobody else has."""
        user = str(self.world.app.user_id)
        claims: dict[str, object] = {
            "sub": user,
            "xero_userid": user,
            "authentication_event_id": str(held.id),
            "scope": held.scope.split(),
            "exp": int((now + ACCESS).timestamp()),
            "jti": secrets.token_hex(16),
        }
        parts = [_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
        signed = ".".join(parts)
        proof = hmac.new(self.world.app.client_secret.encode(), signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{_base64(proof)}"

    async def revoke(self, request: Request) -> Response:
        """`/connect/revocation`: ends the authorisation and all of the user's connections."""
        form = await request.form()
        if not self._is_client(request, form):
            return JSONResponse({"error": "invalid_client"}, 400)
        token = str(form.get("token", ""))
        for key, held in list(self.world.app.authorisations.items()):
            if token in held.refresh:
                del self.world.app.authorisations[key]
                for other in self.world.app.authorisations.values():
                    other.connections = []
        return Response(status_code=200)

    def holder(self, request: Request) -> Authorisation | None:
        """The authorisation of the request's bearer token, if it is valid now."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        now = self.world.clock.now()
        for held in self.world.app.authorisations.values():
            if token in held.access and held.access[token] > now:
                return held
        return None

    def tenant(self, held: Authorisation, request: Request) -> Organisation | None:
        """The organisation that the request names, if the authorisation covers it."""
        named = request.headers.get("xero-tenant-id", "").lower()
        for one in held.connections:
            if str(one.tenant_id) == named:
                return self.world.organisations.get(one.tenant_id)
        return None

    async def connections(self, request: Request) -> Response:
        """`GET /connections`: all of the user's, or those of one authorisation (`authEventId`)."""
        held = self.holder(request)
        if held is None:
            return unauthorised()
        event = request.query_params.get("authEventId")
        listed = [
            {
                "id": str(one.id),
                "authEventId": str(one.event),
                "tenantId": str(one.tenant_id),
                "tenantType": "ORGANISATION",
                "tenantName": self.world.organisations[one.tenant_id].name,
                "createdDateUtc": one.created.strftime("%Y-%m-%dT%H:%M:%S.%f0"),
                "updatedDateUtc": one.created.strftime("%Y-%m-%dT%H:%M:%S.%f0"),
            }
            for one in held.connections
            if one.tenant_id in self.world.organisations and event in {None, str(one.event)}
        ]
        return JSONResponse(listed)

    async def disconnect(self, request: Request) -> Response:
        """`DELETE /connections/{id}`."""
        held = self.holder(request)
        if held is None:
            return unauthorised()
        before = len(held.connections)
        for each in self.world.app.authorisations.values():
            each.connections = [one for one in each.connections if str(one.id) != request.path_params["id"]]
        return Response(status_code=204 if len(held.connections) < before else 404)


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def unauthorised(detail: str = "TokenExpired: token expired or unknown") -> Response:
    """401 as Xero writes it."""
    body: dict[str, object] = {
        "Type": None,
        "Title": "Unauthorized",
        "Status": 401,
        "Detail": detail,
        "Instance": str(uuid4()),
        "Extensions": {},
    }
    return JSONResponse(body, 401)
