"""The sandbox's Xero, checked against the vendor's rules and, if the files are available, its OpenAPI document."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx
import jsonschema
import jwt
import pytest

from runtime.settings import override_settings, settings
from sandbox import server
from sandbox.generate import Generator
from sandbox.limits import Limits
from sandbox.world import WORLD, CreditResource, load, save
from sandbox.world import World as SandboxWorld
from tests.support.serving import read_body, serving, wait_until
from tests.support.world import Sandbox
from worker.vendors.xero import oauth

OPENAPI = Path(__file__).resolve().parents[3] / "shared" / "reference" / "openapi"
CLIENT = ("sandbox-client", "sandbox-secret")
ID_ELEMENTS = {"Invoices": "InvoiceID", "Contacts": "ContactID"} | {
    resource.value: resource.id_element for resource in CreditResource
}
CREDIT_RESOURCES = [resource.value for resource in CreditResource]
REDIRECT = "http://127.0.0.1:1/callback"


class Books:
    """A client of the sandbox's Xero, connected to all its organisations."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.token = authorise(sandbox)
        self.headers = {"Authorization": f"Bearer {self.token['access_token']}"}
        self.connections = sandbox.http.get("/xero/connections", headers=self.headers).json()
        self.tenant = self.connections[0]["tenantId"] if self.connections else ""

    def get(self, path: str, tenant: str | None = None, since: str | None = None, **query: str) -> httpx.Response:
        headers = {**self.headers, "Xero-Tenant-Id": tenant or self.tenant, "Accept": "application/json"}
        if since:
            headers["If-Modified-Since"] = since
        return self.sandbox.http.get(f"/xero/api.xro/2.0/{path}", params=query, headers=headers)

    def ids(self, resource: str, **query: str) -> list[str]:
        response = self.get(resource, **query)
        assert response.status_code == 200, response.text
        return [row[ID_ELEMENTS[resource]] for row in response.json()[resource]]

    def single(self, resource: str, row_id: str, **query: str) -> dict[str, Any]:
        response = self.get(f"{resource}/{row_id}", **query)
        assert response.status_code == 200, response.text
        (row,) = response.json()[resource]
        assert isinstance(row, dict)
        return row


def authorise(sandbox: Sandbox) -> dict[str, Any]:
    request = oauth.begin(REDIRECT)
    response = sandbox.http.get(request.url, follow_redirects=False)
    query = parse_qs(urlsplit(response.headers["location"]).query)
    assert query["state"] == [request.state]
    return oauth.exchange_code(request, query["code"][0])


@contextmanager
def received_bodies(sandbox: Sandbox) -> Iterator[list[bytes]]:
    """Receive the webhooks of Xero: the bodies so far, with the four of the intent to receive first."""
    bodies: list[bytes] = []

    async def receiver(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        bodies.append(await read_body(receive))
        status = 401 if len(bodies) in {2, 4} else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    wait_until(lambda: sandbox.state()["pending_deliveries"] == 0, description="earlier events")
    with serving(receiver) as url:
        sandbox.control("PUT", "app", json={"webhook_url": url})
        sandbox.control("POST", "webhooks/enable")
        yield bodies


def delivered_events(sandbox: Sandbox, bodies: list[bytes]) -> list[dict[str, Any]]:
    """The events that were delivered since the last call, when no delivery is pending."""
    wait_until(lambda: sandbox.state()["pending_deliveries"] == 0, description="the deliveries")
    events = [event for body in bodies for event in json.loads(body)["events"]]
    bodies.clear()
    return events


def refusal(sandbox: Sandbox, action: str, **values: Any) -> str:
    """The reason for which an action is refused."""
    response = sandbox.http.post(f"/control/actions/{action}", json=values)
    assert response.status_code == 422, response.text
    reason = response.json()["error"]
    assert isinstance(reason, str)
    return reason


def token_call(sandbox: Sandbox, **form: str) -> httpx.Response:
    return sandbox.http.post("/xero/connect/token", data=form, auth=CLIENT)


def request_scopes(*scopes: str) -> None:
    """Request these scopes in addition to the configured ones."""
    override_settings({"XERO_SCOPES": " ".join(dict.fromkeys([*settings().xero_scopes.split(), *scopes]))})


@pytest.fixture
def books(sandbox: Sandbox) -> Books:
    request_scopes("accounting.payments.read")
    sandbox.simulate("add_organisation", name="First")
    sandbox.simulate("add_organisation", name="Second")
    return Books(sandbox)


def test_a_code_works_once_and_only_with_its_verifier(sandbox: Sandbox) -> None:
    sandbox.simulate("add_organisation", name="First")
    request = oauth.begin(REDIRECT)

    def code() -> str:
        response = sandbox.http.get(request.url, follow_redirects=False)
        return parse_qs(urlsplit(response.headers["location"]).query)["code"][0]

    form = {"grant_type": "authorization_code", "redirect_uri": REDIRECT}
    assert token_call(sandbox, **form, code=code(), code_verifier="x" * 64).json() == {"error": "invalid_grant"}
    code_form = code()
    assert token_call(sandbox, **form, code=code_form, code_verifier=request.code_verifier).status_code == 200
    assert token_call(sandbox, **form, code=code_form, code_verifier=request.code_verifier).status_code == 400
    response = sandbox.http.post("/xero/connect/token", data={**form, "code": code()}, auth=("a", "b"))
    assert response.json() == {"error": "invalid_client"}


def test_a_user_can_refuse_or_select_organisations_on_the_consent_page(sandbox: Sandbox) -> None:
    tenant = sandbox.simulate("add_organisation", name="Chosen")["tenant"]
    sandbox.simulate("add_organisation", name="Not chosen")
    sandbox.control("PUT", "app", json={"auto_consent": False})
    request = oauth.begin(REDIRECT)
    page = sandbox.http.get(request.url)
    assert "Chosen" in page.text
    refused = sandbox.http.post(request.url, data={"answer": "cancel"}, follow_redirects=False)
    assert "error=access_denied" in refused.headers["location"]
    response = sandbox.http.post(request.url, data={"answer": "allow", "tenant": tenant}, follow_redirects=False)
    code = parse_qs(urlsplit(response.headers["location"]).query)["code"][0]
    token = oauth.exchange_code(request, code)
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    (only,) = sandbox.http.get("/xero/connections", headers=headers).json()
    assert (only["tenantId"], only["tenantType"]) == (tenant, "ORGANISATION")


def test_refresh_tokens_rotate_with_30_minutes_of_grace_and_expire_after_60_days(books: Books) -> None:
    sandbox, first = books.sandbox, books.token["refresh_token"]
    second = token_call(sandbox, grant_type="refresh_token", refresh_token=first).json()["refresh_token"]
    assert second != first
    assert token_call(sandbox, grant_type="refresh_token", refresh_token=first).status_code == 200

    sandbox.control("PUT", "clock", json={"offset_seconds": 31 * 60})
    assert token_call(sandbox, grant_type="refresh_token", refresh_token=first).json() == {"error": "invalid_grant"}
    assert books.get("Organisation").status_code == 401
    assert token_call(sandbox, grant_type="refresh_token", refresh_token=second).status_code == 200
    third = token_call(sandbox, grant_type="refresh_token", refresh_token=second).json()["refresh_token"]
    sandbox.control("PUT", "clock", json={"offset_seconds": 61 * 86_400})
    assert token_call(sandbox, grant_type="refresh_token", refresh_token=third).status_code == 400


def test_revocation_and_disconnection_end_access(books: Books) -> None:
    sandbox = books.sandbox
    connection_id = books.connections[0]["id"]
    assert sandbox.http.delete(f"/xero/connections/{connection_id}", headers=books.headers).status_code == 204
    refused = books.get("Organisation")
    assert (refused.status_code, refused.json()["Detail"]) == (403, "AuthenticationUnsuccessful")
    other_tenant = books.connections[1]["tenantId"]
    assert books.get("Organisation", tenant=other_tenant).status_code == 200
    sandbox.http.post("/xero/connect/revocation", data={"token": books.token["refresh_token"]}, auth=CLIENT)
    assert books.get("Organisation", tenant=other_tenant).status_code == 401


def test_tokens_are_jwts_that_name_the_user_and_the_consent(books: Books) -> None:
    sandbox = books.sandbox
    document = sandbox.http.get("/xero/.well-known/openid-configuration").json()
    keys = jwt.PyJWKClient(document["jwks_uri"])
    access = books.token["access_token"]
    claims = jwt.decode(
        access,
        keys.get_signing_key_from_jwt(access).key,
        ["RS256"],
        audience=f"{document['issuer']}/resources",
        issuer=document["issuer"],
    )
    assert {connection["authEventId"] for connection in books.connections} == {claims["authentication_event_id"]}
    assert claims["scope"] == books.token["scope"]
    assert claims["exp"] - claims["nbf"] == 30 * 60
    assert (claims["sub"], claims["client_id"]) == (claims["xero_userid"].replace("-", ""), "sandbox-client")

    override_settings({"XERO_SCOPES": "openid profile email offline_access"})
    token = authorise(sandbox)
    identity = jwt.decode(
        token["id_token"],
        keys.get_signing_key_from_jwt(token["id_token"]).key,
        ["RS256"],
        audience="sandbox-client",
        issuer=document["issuer"],
    )
    assert (identity["email"], identity["xero_userid"]) == ("sam@demo.xero.test", claims["xero_userid"])
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    assert sandbox.http.get("/xero/connect/userinfo", headers=headers).json()["email"] == "sam@demo.xero.test"


@pytest.mark.parametrize(
    ("scopes", "status"),
    [
        ("offline_access", {"Invoices": 401, "Contacts": 401, "Organisation": 401}),
        ("offline_access accounting.contacts.read", {"Invoices": 401, "Contacts": 200, "Organisation": 401}),
        (
            "offline_access accounting.transactions.read accounting.settings",
            {"Invoices": 200, "Contacts": 401, "Organisation": 200},
        ),
    ],
)
def test_a_call_that_the_scope_does_not_cover_is_refused_as_xero_does(
    books: Books, scopes: str, status: dict[str, int]
) -> None:
    books.sandbox.control("PUT", "app", json={"granted_scopes": scopes.split()})
    request_scopes("accounting.transactions.read", "accounting.settings")
    narrow = Books(books.sandbox)
    assert narrow.token["scope"] == scopes.split()
    responses = {resource: narrow.get(resource) for resource in status}
    assert {resource: response.status_code for resource, response in responses.items()} == status
    for response in responses.values():
        if response.status_code == 401:
            body = response.json()
            assert (body["Title"], body["Status"], body["Detail"]) == ("Unauthorized", 401, "AuthorizationUnsuccessful")
    assert narrow.get("Organisation", tenant=str(uuid4())).status_code == 403, "that it is not connected comes first"


def test_a_granted_scope_can_be_revoked(books: Books) -> None:
    assert books.get("Invoices").status_code == 200
    assert books.sandbox.simulate("revoke_scope", scope="accounting.invoices.read") == {"authorisations": 1}
    assert books.get("Invoices").json()["Detail"] == "AuthorizationUnsuccessful"
    assert books.get("Contacts").status_code == 200


def test_connections_are_the_users_over_all_their_authorisations(sandbox: Sandbox) -> None:
    first, second, third = (sandbox.simulate("add_organisation", name=name)["tenant"] for name in "ABC")

    def consent(tenant: str, user: str) -> Books:
        sandbox.control("PUT", "app", json={"consent_tenant_ids": [tenant], "consent_user": user})
        return Books(sandbox)

    ann, second_token, bob = consent(first, "ann@x.test"), consent(second, "ann@x.test"), consent(third, "bob@x.test")

    def tenants(books: Books, path: str = "/xero/connections") -> list[str]:
        return [connection["tenantId"] for connection in sandbox.http.get(path, headers=books.headers).json()]

    assert tenants(ann) == tenants(second_token) == tenants(ann, "/xero/Connections/") == [first, second]
    event = jwt.decode(second_token.token["access_token"], options={"verify_signature": False})[
        "authentication_event_id"
    ]
    assert tenants(ann, f"/xero/connections?AUTHEVENTID={event}") == [second]
    assert ann.get("Organisation", tenant=second).status_code == 200, "a token opens all that its user has connected"
    assert ann.get("Organisation", tenant=third).status_code == 403

    once_more = consent(first, "ann@x.test")
    assert once_more.connections[0]["id"] == ann.connections[0]["id"], "the same user, the same connection"
    assert once_more.connections[0]["authEventId"] != ann.connections[0]["authEventId"]

    foreign = sandbox.http.delete(f"/xero/connections/{ann.connections[0]['id']}", headers=bob.headers)
    assert foreign.status_code == 404
    sandbox.http.post("/xero/connect/revocation", data={"token": ann.token["refresh_token"]}, auth=CLIENT)
    assert tenants(second_token) == []
    assert second_token.get("Organisation", tenant=second).status_code == 403
    assert tenants(bob) == [third]


@pytest.mark.parametrize(
    ("country", "version", "timezone"),
    [
        ("NZ", "NZ", "NEWZEALANDSTANDARDTIME"),
        ("GB", "UK", "GMTSTANDARDTIME"),
        ("US", "US", "PACIFICSTANDARDTIME"),
        ("AU", "AU", "AUSEASTERNSTANDARDTIME"),
    ],
)
def test_an_organisation_has_the_version_and_time_zone_of_its_country(
    sandbox: Sandbox, country: str, version: str, timezone: str
) -> None:
    tenant = sandbox.simulate("add_organisation", name="First", country=country)["tenant"]
    books = Books(sandbox)
    organisation = books.get("Organisations").json()["Organisations"][0]
    assert (organisation["CountryCode"], organisation["Version"], organisation["Timezone"]) == (
        country,
        version,
        timezone,
    )
    sandbox.simulate("rename_organisation", tenant=tenant, name="First", timezone="UTC+12")
    assert books.get("Organisation").json()["Organisations"][0]["Timezone"] == "UTC+12"


def test_invoices_are_paged_filtered_and_ordered(books: Books) -> None:
    act = books.sandbox.simulate
    contact = act("create_contact", name="A", tenant=books.tenant)["contact"]
    other_contact = act("create_contact", name="B", tenant=books.tenant)["contact"]
    invoice_ids = [act("create_invoice", contact=contact, total=f"{number}.10")["invoice"] for number in range(1, 8)]
    draft = act("create_invoice", contact=other_contact, status="DRAFT")["invoice"]

    page = books.get("Invoices", page="2", pageSize="3").json()
    assert page["pagination"] == {"page": 2, "pageSize": 3, "pageCount": 3, "itemCount": 8}
    assert books.ids("Invoices", page="1", pageSize="1000", order="InvoiceID ASC") == sorted([*invoice_ids, draft])
    assert books.ids("Invoices", Statuses="DRAFT", page="1") == [draft]
    assert books.ids("Invoices", ContactIDs=other_contact) == [draft]
    assert set(books.ids("Invoices", IDs=f"{invoice_ids[0]},{invoice_ids[1]},{uuid4()}")) == set(invoice_ids[:2])
    assert books.ids("Invoices", order="Total DESC", Statuses="AUTHORISED", page="1")[0] == invoice_ids[-1]
    assert "pagination" not in books.get("Invoices").json()
    assert books.get("Invoices", page="1", pageSize="1001").status_code == 400
    error = books.get("Invoices", page="x").json()
    assert (error["Type"], error["ErrorNumber"]) == ("ValidationException", 10)
    assert books.get("Invoices", tenant=books.connections[1]["tenantId"]).json()["Invoices"] == []


@pytest.fixture
def filled(books: Books) -> dict[str, str]:
    """Three invoices of two contacts: INV-1 half paid, INV-2 a draft without a due date, INV-3 paid in yen."""
    act = books.sandbox.simulate
    acme = act("create_contact", name="Acme Ltd", email="ann@acme.test", tenant=books.tenant)["contact"]
    other_contact = act("create_contact", name='Bo "B" Ltd', tenant=books.tenant)["contact"]
    ids = {"acme": acme, "other": other_contact}
    for contact, number, values in (
        (acme, "INV-1", {"total": "100.00", "issued": "2026-01-15", "due": "2026-02-15"}),
        (acme, "INV-2", {"total": "9.50", "issued": "2026-03-01", "status": "DRAFT"}),
        (other_contact, "INV-3", {"total": "700", "issued": "2026-02-01", "due": "2026-02-10", "currency": "JPY"}),
    ):
        ids[number] = act("create_invoice", contact=contact, number=number, **values)["invoice"]
    act("pay_invoice", invoice=ids["INV-1"], amount="40")
    act("credit_invoice", invoice=ids["INV-1"], amount="10")
    act("pay_invoice", invoice=ids["INV-3"])
    return ids


def numbers(books: Books, **query: str) -> list[str]:
    response = books.get("Invoices", **query)
    assert response.status_code == 200, response.text
    return [invoice["InvoiceNumber"] for invoice in response.json()["Invoices"]]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ('Status=="DRAFT"', {"INV-2"}),
        ('status = "PAID"', {"INV-3"}),
        ('Status!="DRAFT" AND Status<>"PAID"', {"INV-1"}),
        ('Status=="DRAFT" OR Status=="PAID" && Total>1000', {"INV-2"}),
        ('(Status=="DRAFT" || Status=="PAID") and Total>=10', {"INV-3"}),
        ('!(Status=="DRAFT") && NOT Type=="ACCPAY"', {"INV-1", "INV-3"}),
        ("AmountDue>0 AND AmountDue<=50", {"INV-1", "INV-2"}),
        ("Date>=DateTime(2026,02,01) AND Date<DateTime(2026, 3, 1)", {"INV-3"}),
        ('Date<DateTime.Parse("2026-02-01")', {"INV-1"}),
        ("UpdatedDateUTC>DateTime(2000,1,1,10,30,0)", {"INV-1", "INV-2", "INV-3"}),
        ("DueDate==null", {"INV-2"}),
        ("DueDate!=null AND DueDate<DateTime(2026,2,12)", {"INV-3"}),
        ('InvoiceNumber.StartsWith("INV") AND InvoiceNumber.EndsWith("3")', {"INV-3"}),
        ('Contact.Name.Contains("Acme")', {"INV-1", "INV-2"}),
        ('Contact.Name.ToLower()=="acme ltd"', {"INV-1", "INV-2"}),
        (r'Contact.Name=="Bo \"B\" Ltd"', {"INV-3"}),
        ("SentToContact", {"INV-1", "INV-3"}),
        ("SentToContact==false", {"INV-2"}),
        ('Contact.ContactID==Guid("{acme}") AND Status=="DRAFT"', {"INV-2"}),
        ('InvoiceID==Guid("{INV-1}") OR InvoiceID==Guid("{INV-3}")', {"INV-1", "INV-3"}),
    ],
)
def test_where_filters_like_xero(books: Books, filled: dict[str, str], where: str, expected: set[str]) -> None:
    for name, value in filled.items():
        where = where.replace(f"{{{name}}}", value)
    assert set(numbers(books, where=where)) == expected


@pytest.mark.parametrize(
    "where",
    [
        "",
        "Status==",
        'Status=="DRAFT',
        "Nonsense==1",
        'Contact.EmailAddress=="a"',
        "Status>1",
        "InvoiceID>Guid('x')",
        'InvoiceID==Guid("x")',
        "Date>DateTime(2026,13,1)",
        "Date>DateTime(99999999999999999999,1,1)",
        'Date>"2026-01-01"',
        "Status",
        'Status.Trim()=="x"',
        'Total.Contains("1")',
        "!" * 600 + "SentToContact",
        "(" * 300 + "SentToContact" + ")" * 299,
        "Status==\0",
    ],
)
def test_an_unsupported_where_is_refused(books: Books, where: str) -> None:
    response = books.get("Invoices", where=where)
    assert (response.status_code, response.json()["Type"]) == (400, "QueryParseException")
    assert response.json()["Message"]


def test_contacts_can_be_filtered_by_where(books: Books, filled: dict[str, str]) -> None:
    assert books.ids("Contacts", where='EmailAddress=="ann@acme.test"') == [filled["acme"]]
    assert books.ids("Contacts", where='EmailAddress!=null AND EmailAddress.Contains("nobody")') == []
    assert books.ids("Contacts", where='ContactStatus=="ACTIVE" AND Name.StartsWith("Bo")') == [filled["other"]]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("AmountDue DESC", ["INV-1", "INV-2", "INV-3"]),
        ("Date desc", ["INV-2", "INV-3", "INV-1"]),
        ("DueDate", ["INV-2", "INV-3", "INV-1"]),
        ("Type ASC, InvoiceNumber DESC", ["INV-3", "INV-2", "INV-1"]),
        ("Contact.Name ASC,total asc", ["INV-2", "INV-1", "INV-3"]),
    ],
)
@pytest.mark.usefixtures("filled")
def test_invoices_are_ordered_by_any_element(books: Books, order: str, expected: list[str]) -> None:
    assert numbers(books, order=order, page="1") == expected
    for refused in ("Nonsense ASC", "Date UP", "Date ASC DESC", ","):
        assert books.get("Invoices", order=refused).json()["Type"] == "QueryParseException"


@pytest.mark.usefixtures("filled")
def test_paths_and_parameters_are_case_insensitive(books: Books) -> None:
    first = books.get("invoices/", PAGE="1", pagesize="2", STATUSES="DRAFT").json()
    assert first["pagination"] == {"page": 1, "pageSize": 2, "pageCount": 1, "itemCount": 1}
    assert books.get("Organisations").json()["Organisations"][0]["Name"] == "First"
    assert books.get("invoice/INV-1/history/").json()["HistoryRecords"]
    assert books.get("invoice/INV-1/onlineinvoice/").json()["OnlineInvoices"]
    assert books.get("Contact", summaryonly="1", page="1").json()["Contacts"][0].get("ContactPersons") is None


@pytest.mark.usefixtures("filled")
def test_unsupported_requests_are_refused_by_name(books: Books) -> None:
    for path, name in (
        ("Invoices", "nonsense"),
        ("Contacts", "contactids"),
        ("Invoices/INV-1", "page"),
        ("Organisation", "x"),
    ):
        response = books.get(path, **{name: "1"})
        assert (response.status_code, response.json()["Type"]) == (400, "ValidationException")
        assert name in response.json()["Message"]
    assert books.get("Invoices", page="1", PAGE="2").status_code == 400
    missing = books.get("BankTransactions")
    assert (missing.status_code, missing.json()["Detail"]) == (
        404,
        "The sandbox does not support GET /xero/api.xro/2.0/BankTransactions",
    )
    written = books.sandbox.http.put("/xero/api.xro/2.0/Invoices", json={}, headers=books.headers)
    assert (written.status_code, "PUT /xero" in written.json()["Detail"]) == (405, True)
    xml = books.sandbox.http.get(
        "/xero/api.xro/2.0/Invoices", headers={**books.headers, "Xero-Tenant-Id": books.tenant, "Accept": "*/*"}
    )
    assert (xml.status_code, "XML" in xml.json()["Detail"]) == (406, True)
    unknown = books.sandbox.http.get("/xero/connections?x=1", headers=books.headers)
    assert unknown.status_code == 400


def test_an_online_invoice_exists_for_sales_invoices_that_are_not_drafts(books: Books) -> None:
    act = books.sandbox.simulate
    contact = act("create_contact", name="A", tenant=books.tenant)["contact"]
    sale, other, draft, bill = (
        act("create_invoice", contact=contact, **values)["invoice"]
        for values in ({}, {}, {"status": "DRAFT"}, {"type": "ACCPAY"})
    )

    def online(invoice: object) -> Any:
        return books.get(f"Invoices/{invoice}/OnlineInvoice")

    (row,) = online(sale).json()["OnlineInvoices"]
    assert row["OnlineInvoiceUrl"].startswith("https://in.xero.com/")
    assert online(sale).json()["OnlineInvoices"] == [row]
    assert online(other).json()["OnlineInvoices"] != [row]
    for refused in (draft, bill):
        assert (online(refused).status_code, online(refused).json()["Type"]) == (400, "ValidationException")
    assert online(uuid4()).status_code == 404
    assert books.get(f"Invoices/{sale}/OnlineInvoice", page="1").status_code == 400


def test_invalid_ids_and_pages_never_cause_a_server_error(books: Books) -> None:
    for path in ("Invoices/" + "-" * 36, "Contacts/" + "-" * 36, "Invoices/%00", "Contacts/x", "Invoices/x/History"):
        assert books.get(path).status_code == 404
    for page in ("9" * 23, "-1", "0", "1.0", "²", "", "1e3"):
        response = books.get("Invoices", page=page)
        assert (response.status_code, response.json()["Type"]) == (400, "ValidationException"), page
    for query in ({"summaryOnly": "maybe"}, {"IDs": "x"}, {"Statuses": "LATE"}, {"unitdp": "3"}):
        assert books.get("Invoices", **query).status_code == 400
    assert books.get("Invoices", page="9999999999").status_code in {200, 400}
    assert books.get("Invoices", since="yesterday").status_code == 400


def test_a_url_that_is_too_long_for_xero_is_not_found(books: Books) -> None:
    fits = ",".join(str(uuid4()) for _ in range(52))
    assert books.get("Invoices", IDs=fits).status_code == 200
    response = books.get("Invoices", IDs=f"{fits},{uuid4()}")
    assert (response.status_code, response.headers["content-type"]) == (404, "text/html; charset=utf-8")


def test_a_list_without_pages_has_no_line_items_and_a_single_invoice_has_its_contact(
    books: Books, filled: dict[str, str]
) -> None:
    query = {"where": 'InvoiceNumber=="INV-1"'}
    (invoice,) = books.get("Invoices", **query).json()["Invoices"]
    (paged,) = books.get("Invoices", **query, page="1", unitdp="4").json()["Invoices"]
    single = books.get(f"Invoices/{filled['INV-1']}")
    (full,) = single.json()["Invoices"]
    assert (invoice["LineItems"], len(paged["LineItems"]), len(full["LineItems"])) == ([], 1, 1)
    assert '"UnitAmount":100.00,' in single.text
    assert [payment["Amount"] for payment in invoice["Payments"]] == [40.0]
    assert [credit["AppliedAmount"] for credit in paged["CreditNotes"]] == [10.0]
    assert "EmailAddress" not in paged["Contact"]
    assert full["Contact"]["EmailAddress"] == "ann@acme.test"
    assert numbers(books, createdByMyApp="true") == []
    assert len(numbers(books, createdByMyApp="false", includeArchived="true")) == 3


def test_a_public_app_uses_pkce_without_a_secret(sandbox: Sandbox) -> None:
    sandbox.simulate("add_organisation", name="First")
    override_settings({"XERO_CLIENT_ID": "sandbox-public-client"})
    request = oauth.begin("http://127.0.0.1:1/callback?a=1")
    response = sandbox.http.get(request.url, follow_redirects=False)
    address = urlsplit(response.headers["location"])
    query = parse_qs(address.query)
    assert (query["a"], address.query.count("?")) == (["1"], 0), "the address keeps its own query"
    form = {"grant_type": "authorization_code", "client_id": "sandbox-public-client", "code": query["code"][0]}
    form |= {"redirect_uri": "http://127.0.0.1:1/callback?a=1", "code_verifier": request.code_verifier}
    token = sandbox.http.post("/xero/connect/token", data=form).json()
    refresh_form = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"]}
    assert token_call(sandbox, **refresh_form).json() == {"error": "invalid_grant"}, "another app's token"
    refreshed = sandbox.http.post("/xero/connect/token", data={**refresh_form, "client_id": "sandbox-public-client"})
    assert refreshed.json()["access_token"] != token["access_token"]
    without = request.url.replace("code_challenge=", "ignored=")
    assert sandbox.http.get(without, follow_redirects=False).status_code == 400
    for wrong in ("scope=x", "client_id=x", "response_type=token"):
        name = wrong.partition("=")[0]
        url = httpx.URL(request.url).copy_set_param(name, wrong.partition("=")[2])
        assert sandbox.http.get(url, follow_redirects=False).status_code == 400


def test_an_action_accepts_names_instead_of_ids(books: Books) -> None:
    act = books.sandbox.simulate
    contact = act("create_contact", name="Acme Ltd", email="Ann@acme.test", tenant="first")["contact"]
    invoice = act("create_invoice", contact="ann@ACME.test", number="INV-0058", total="50")["invoice"]
    assert act("pay_invoice", invoice="inv-0058", amount="20") == {"invoice": invoice, "due": "30"}
    assert act("update_contact", contact="acme ltd", name="Acme")["contact"] == contact
    act("create_contact", name="Acme", tenant="Second")
    for action, values, reason in (
        ("update_contact", {"contact": "Acme"}, "2 are called Acme (First, Second): use the contact's id"),
        ("pay_invoice", {"invoice": "INV-1"}, "there is no invoice INV-1"),
        ("create_contact", {"name": "x", "tenant": "Third"}, "there is no organisation Third"),
        ("pay_invoice", {"invoice": ""}, "there is no invoice"),
    ):
        response = books.sandbox.http.post(f"/control/actions/{action}", json=values)
        assert response.status_code == 422
        assert reason in response.json()["error"]


def test_if_modified_since_returns_only_changes(books: Books) -> None:
    act = books.sandbox.simulate
    contact = act("create_contact", name="A", email="a@x.test", tenant=books.tenant)["contact"]
    old, new = (act("create_invoice", contact=contact)["invoice"] for _ in range(2))
    books.sandbox.control("PUT", "clock", json={"offset_seconds": 120})
    since = (datetime.now(UTC) + timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%S")
    token_headers = books.headers
    assert books.ids("Invoices", since=since) == []
    act("void_invoice", invoice=new)
    assert token_headers is books.headers
    assert books.ids("Invoices", since=since) == [new]
    assert old not in books.ids("Invoices", since=since, page="1")
    assert books.ids("Contacts", since=since) == []


def test_summaries_omit_nested_lists_and_single_resources_do_not(books: Books) -> None:
    act = books.sandbox.simulate
    contact = act("create_contact", name="A", email="a@x.test", person_emails=["p@x.test"], tenant=books.tenant)[
        "contact"
    ]
    invoice = act("create_invoice", contact=contact, number="INV-7")

    (short,) = books.get("Invoices", summaryOnly="true", page="1").json()["Invoices"]
    (full,) = books.get(f"Invoices/{invoice['invoice']}").json()["Invoices"]
    assert "LineItems" not in short
    assert full["LineItems"][0]["LineAmount"] == 115.0
    assert "EmailAddress" not in short["Contact"]
    assert short["UpdatedDateUTC"].startswith("/Date(")
    assert short["DateString"][10:] in {"T00:00:00", " 00:00:00"}
    assert books.get("Invoices/INV-7").json()["Invoices"][0]["InvoiceID"] == invoice["invoice"]
    assert books.get(f"Invoices/{uuid4()}").status_code == 404
    assert books.get(f"Contacts/{uuid4()}").status_code == 404
    (person,) = books.get(f"Contacts/{contact}").json()["Contacts"][0]["ContactPersons"]
    assert person["EmailAddress"] == "p@x.test"
    act("pay_invoice", invoice=invoice["invoice"], amount="15")
    lines = books.get(f"Invoices/{invoice['invoice']}/History").json()["HistoryRecords"]
    assert [line["Changes"] for line in lines] == ["Paid", "Created"]


def test_archived_contacts_are_hidden_by_default_and_merged_ones_name_their_target(books: Books) -> None:
    act = books.sandbox.simulate
    source, target = (act("create_contact", name=name, tenant=books.tenant)["contact"] for name in "AB")
    invoice = act("create_invoice", contact=source)["invoice"]
    act("merge_contacts", source=source, target=target)

    assert books.ids("Contacts", page="1") == [target]
    assert set(books.ids("Contacts", page="1", includeArchived="true")) == {source, target}
    assert books.get(f"Contacts/{source}").json()["Contacts"][0]["MergedToContactID"] == target
    assert books.get(f"Invoices/{invoice}").json()["Invoices"][0]["Contact"]["ContactID"] == target


@pytest.fixture
def credited(books: Books) -> dict[str, str]:
    """Credits of two contacts: two credit notes of Acme and a draft, and a prepayment and an overpayment each.

    Half of the credit note CN-1 is applied to the invoice INV-1, which was paid in part.
    """
    act = books.sandbox.simulate
    acme = act("create_contact", name="Acme Ltd", email="ann@acme.test", tenant=books.tenant)["contact"]
    other_contact = act("create_contact", name="Bo Ltd", tenant=books.tenant)["contact"]
    ids = {"acme": acme, "other": other_contact}
    for number, values in (
        ("CN-1", {"total": "100.00", "issued": "2026-01-15", "reference": "R-7"}),
        ("CN-2", {"total": "9.50", "issued": "2026-03-01", "status": "DRAFT"}),
        ("CN-3", {"total": "700", "issued": "2026-02-01", "currency": "JPY", "type": "ACCPAYCREDIT"}),
    ):
        ids[number] = act("create_credit_note", contact=acme, number=number, **values)["credit"]
    for contact, side in ((acme, "RECEIVE"), (other_contact, "SPEND")):
        for resource in ("prepayment", "overpayment"):
            values = {"total": "50.00", "type": f"{side}-{resource.upper()}", "issued": "2026-04-02"}
            ids[f"{side} {resource}"] = act(f"create_{resource}", contact=contact, **values)["credit"]
    ids["INV-1"] = act("create_invoice", contact=acme, number="INV-1", total="120.00")["invoice"]
    act("pay_invoice", invoice="INV-1", amount="30")
    act("apply_credit", credit="CN-1", invoice="INV-1", amount="50")
    return ids


def credit_note_numbers(books: Books, **query: str) -> list[str]:
    response = books.get("CreditNotes", **query)
    assert response.status_code == 200, response.text
    return [credit["CreditNoteNumber"] for credit in response.json()["CreditNotes"]]


def test_credits_are_listed_by_resource_and_paged(books: Books, credited: dict[str, str]) -> None:
    assert set(books.ids("CreditNotes")) == {credited[number] for number in ("CN-1", "CN-2", "CN-3")}
    assert set(books.ids("Prepayments")) == {credited["RECEIVE prepayment"], credited["SPEND prepayment"]}
    assert set(books.ids("Overpayments")) == {credited["RECEIVE overpayment"], credited["SPEND overpayment"]}
    page = books.get("creditnotes/", page="2", pageSize="2", order="CreditNoteNumber ASC").json()
    assert page["pagination"] == {"page": 2, "pageSize": 2, "pageCount": 2, "itemCount": 3}
    assert [credit["CreditNoteNumber"] for credit in page["CreditNotes"]] == ["CN-3"]
    assert "pagination" not in books.get("Overpayments").json()
    for resource in CREDIT_RESOURCES:
        assert books.get(resource, tenant=books.connections[1]["tenantId"]).json()[resource] == []
        assert books.get(resource, pageSize="1001").status_code == 400


def test_a_credit_is_shown_with_what_remains_of_it(books: Books, credited: dict[str, str]) -> None:
    (listed,) = books.get("CreditNotes", where='CreditNoteNumber=="CN-1"').json()["CreditNotes"]
    (paged,) = books.get("CreditNotes", where='CreditNoteNumber=="CN-1"', page="1").json()["CreditNotes"]
    single = books.single("CreditNotes", credited["CN-1"])
    for credit in (listed, paged, single):
        assert (credit["Type"], credit["Status"], credit["Reference"]) == ("ACCRECCREDIT", "AUTHORISED", "R-7")
        assert (credit["Total"], credit["RemainingCredit"], credit["CurrencyCode"]) == (100.0, 50.0, "NZD")
        assert credit["DateString"] in {"2026-01-15T00:00:00", "2026-01-15 00:00:00"}
        assert credit["Date"].startswith("/Date(1768435200000")
        (allocation,) = credit["Allocations"]
        assert allocation["Invoice"] == {"InvoiceID": credited["INV-1"], "InvoiceNumber": "INV-1"}
        assert allocation["Amount"] == 50.0
    assert (listed["LineItems"], len(paged["LineItems"]), len(single["LineItems"])) == ([], 1, 1)
    assert "EmailAddress" not in paged["Contact"]
    assert single["Contact"]["EmailAddress"] == "ann@acme.test"
    prepayment = books.single("Prepayments", credited["RECEIVE prepayment"])
    assert (prepayment["RemainingCredit"], prepayment["Allocations"]) == (50.0, [])
    assert "CreditNoteNumber" not in prepayment
    assert '"UnitAmount":100.0000,' in books.get(f"CreditNotes/{credited['CN-1']}", unitdp="4").text


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ('Status=="DRAFT"', {"CN-2"}),
        ('Type=="ACCPAYCREDIT" OR Status!="AUTHORISED"', {"CN-2", "CN-3"}),
        ("RemainingCredit>0 AND RemainingCredit<=50", {"CN-1", "CN-2"}),
        ('Total>=100 AND CurrencyCode!="JPY"', {"CN-1"}),
        ("Date>=DateTime(2026,02,01) AND Date<DateTime(2026, 3, 1)", {"CN-3"}),
        ("UpdatedDateUTC>DateTime(2000,1,1)", {"CN-1", "CN-2", "CN-3"}),
        ('CreditNoteNumber.EndsWith("2") OR Reference=="R-7"', {"CN-1", "CN-2"}),
        ('Contact.Name.Contains("Acme") AND Contact.ContactID==Guid("{acme}")', {"CN-1", "CN-2", "CN-3"}),
        ('Contact.ContactID==Guid("{other}")', set()),
        ('CreditNoteID==Guid("{CN-3}")', {"CN-3"}),
    ],
)
def test_credits_are_filtered_by_where(books: Books, credited: dict[str, str], where: str, expected: set[str]) -> None:
    for name, value in credited.items():
        where = where.replace(f"{{{name}}}", value)
    assert set(credit_note_numbers(books, where=where)) == expected


def test_credits_are_ordered_by_any_element(books: Books, credited: dict[str, str]) -> None:
    assert credit_note_numbers(books, order="Total DESC") == ["CN-3", "CN-1", "CN-2"]
    assert credit_note_numbers(books, order="Type ASC, Date DESC", page="1") == ["CN-3", "CN-2", "CN-1"]
    for resource in CREDIT_RESOURCES:
        ids = books.ids(resource, order=f"{ID_ELEMENTS[resource]} ASC")
        assert ids == sorted(ids)
    spent = credited["SPEND prepayment"]
    assert books.ids("Prepayments", order="Contact.Name DESC")[0] == spent
    assert books.ids("Prepayments", where=f'PrepaymentID==Guid("{spent}") AND Type=="SPEND-PREPAYMENT"') == [spent]


def test_what_credits_do_not_support_is_refused_by_name(books: Books, credited: dict[str, str]) -> None:
    for resource in CREDIT_RESOURCES:
        for name in ("IDs", "summaryOnly", "Statuses", "InvoiceNumbers", "References", "includeArchived"):
            response = books.get(resource, **{name: "1"})
            assert (response.status_code, response.json()["Type"]) == (400, "ValidationException")
            assert name.lower() in response.json()["Message"]
        for query in ({"where": "AmountDue>0"}, {"where": "Status=="}, {"order": "DueDate"}):
            assert books.get(resource, **query).json()["Type"] == "QueryParseException"
        for row_id in (str(uuid4()), "x", "CN-1", credited["INV-1"]):
            assert books.get(f"{resource}/{row_id}").status_code == 404
        assert books.get(resource, since="yesterday").status_code == 400
    assert books.get("Prepayments", where='CreditNoteNumber=="CN-1"').status_code == 400
    assert books.get(f"CreditNotes/{credited['RECEIVE prepayment']}").status_code == 404
    assert books.get(f"CreditNotes/{credited['CN-1']}", page="1").status_code == 400
    assert books.get(f"Prepayments/{credited['RECEIVE prepayment']}", unitdp="4").status_code == 400
    assert books.get(f"CreditNotes/{credited['CN-1']}/Allocations").status_code == 404


@pytest.mark.parametrize(
    ("scopes", "statuses"),
    [
        ("accounting.contacts.read", [401, 401, 401]),
        ("accounting.invoices.read", [200, 401, 401]),
        ("accounting.payments.read", [401, 200, 200]),
        ("accounting.invoices accounting.payments", [200, 200, 200]),
        ("accounting.transactions", [200, 200, 200]),
        ("accounting.transactions.read", [200, 200, 200]),
    ],
)
def test_credits_need_the_scopes_of_invoices_or_payments(books: Books, scopes: str, statuses: list[int]) -> None:
    override_settings({"XERO_SCOPES": f"offline_access {scopes}"})
    narrow = Books(books.sandbox)
    responses = [narrow.get(resource) for resource in CREDIT_RESOURCES]
    assert [response.status_code for response in responses] == statuses
    for response in responses:
        if response.status_code == 401:
            assert response.json()["Detail"] == "AuthorizationUnsuccessful"


def test_only_changed_credits_are_listed_since_a_time(books: Books, credited: dict[str, str]) -> None:
    act = books.sandbox.simulate
    books.sandbox.control("PUT", "clock", json={"offset_seconds": 120})
    since = (datetime.now(UTC) + timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%S")
    assert [books.get(resource, since=since).json()[resource] for resource in CREDIT_RESOURCES] == [[], [], []]

    act("apply_credit", credit="CN-1", invoice="INV-1", amount="5", webhook=False)
    act("void_credit", credit=credited["RECEIVE overpayment"])

    assert books.ids("CreditNotes", since=since) == [credited["CN-1"]]
    assert books.ids("Overpayments", since=since, page="1") == [credited["RECEIVE overpayment"]]
    assert books.ids("Invoices", since=since) == [credited["INV-1"]]
    voided = books.single("Overpayments", credited["RECEIVE overpayment"])
    assert (voided["Status"], voided["RemainingCredit"], voided["Total"]) == ("VOIDED", 0, 50.0)


def test_credits_pay_an_invoice_until_they_are_removed(books: Books, credited: dict[str, str]) -> None:
    act, invoice_id = books.sandbox.simulate, credited["INV-1"]
    prepayment, overpayment = credited["RECEIVE prepayment"], credited["RECEIVE overpayment"]

    assert act("apply_credit", credit=prepayment, invoice="INV-1", amount="15.50") == {
        "credit": prepayment,
        "remaining": "34.50",
        "invoice": invoice_id,
        "due": "24.50",
    }
    act("apply_credit", credit=overpayment, invoice="INV-1", amount="14.50")
    assert act("apply_credit", credit="CN-1", invoice="INV-1")["due"] == "0.00"

    invoice = books.single("Invoices", invoice_id)
    assert (invoice["Status"], invoice["AmountDue"], invoice["AmountPaid"]) == ("PAID", 0, 30.0)
    assert (invoice["AmountCredited"], "FullyPaidOnDate" in invoice) == (90.0, True)
    (credit_note,) = invoice["CreditNotes"]
    assert (credit_note["CreditNoteNumber"], credit_note["AppliedAmount"], credit_note["Total"]) == (
        "CN-1",
        60.0,
        100.0,
    )
    assert [row["AppliedAmount"] for row in invoice["Prepayments"]] == [15.5]
    assert [row["OverpaymentID"] for row in invoice["Overpayments"]] == [overpayment]
    allocations = books.single("CreditNotes", credited["CN-1"])["Allocations"]
    assert [allocation["Amount"] for allocation in allocations] == [50.0, 10.0]

    assert act("remove_allocation", credit="CN-1", invoice="INV-1") == {
        "credit": credited["CN-1"],
        "remaining": "100.00",
        "invoice": invoice_id,
        "due": "60.00",
    }
    invoice = books.single("Invoices", invoice_id)
    assert (invoice["Status"], invoice["AmountDue"], "FullyPaidOnDate" in invoice) == ("AUTHORISED", 60.0, False)
    assert (invoice["CreditNotes"], len(invoice["Prepayments"])) == ([], 1)
    lines = books.get(f"Invoices/{invoice_id}/History").json()["HistoryRecords"]
    assert [line["Changes"] for line in lines[:2]] == ["Credit removed", "Credited"]


def test_a_credit_that_is_applied_completely_is_paid(books: Books, credited: dict[str, str]) -> None:
    act, prepayment = books.sandbox.simulate, credited["RECEIVE prepayment"]
    act("create_invoice", contact="Acme Ltd", number="INV-9", total="200.00")

    assert act("apply_credit", credit=prepayment, invoice="INV-9")["remaining"] == "0.00"
    assert books.single("Prepayments", prepayment)["Status"] == "PAID"
    act("remove_allocation", credit=prepayment, invoice="INV-9")
    row = books.single("Prepayments", prepayment)
    assert (row["Status"], row["RemainingCredit"], row["Allocations"]) == ("AUTHORISED", 50.0, [])


@pytest.mark.parametrize(("invoice_type", "number"), [("ACCREC", "CN-0001"), ("ACCPAY", "")])
def test_crediting_an_invoice_creates_a_credit_note_that_is_applied_to_it(
    books: Books, invoice_type: str, number: str
) -> None:
    act = books.sandbox.simulate
    act("create_contact", name="A", tenant=books.tenant)
    invoice = act("create_invoice", contact="A", total="100", type=invoice_type, currency="USD")["invoice"]

    assert act("credit_invoice", invoice=invoice, amount="40") == {"invoice": invoice, "due": "60"}

    (credit,) = books.get("CreditNotes").json()["CreditNotes"]
    assert (credit["Type"], credit["CreditNoteNumber"]) == (f"{invoice_type}CREDIT", number)
    assert (credit["Status"], credit["RemainingCredit"], credit["CurrencyCode"]) == ("PAID", 0, "USD")
    assert credit["Allocations"][0]["Invoice"]["InvoiceID"] == invoice


def test_a_credit_is_only_applied_where_xero_allows_it(books: Books, credited: dict[str, str]) -> None:
    act, sandbox = books.sandbox.simulate, books.sandbox
    act("create_invoice", contact="Bo Ltd", number="BO-1")
    act("create_invoice", contact="Acme Ltd", number="USD-1", currency="USD")
    act("create_invoice", contact="Acme Ltd", number="BILL-1", type="ACCPAY")
    act("create_invoice", contact="Acme Ltd", number="DRAFT-1", status="DRAFT")
    for credit, invoice, reason in (
        ("CN-1", "BO-1", "the credit and the invoice belong to different contacts"),
        ("CN-1", "USD-1", "the credit is in NZD, but the invoice in USD"),
        ("CN-1", "BILL-1", "a credit of type ACCRECCREDIT cannot be applied to an invoice of type ACCPAY"),
        ("CN-1", "DRAFT-1", "the credit is AUTHORISED, the invoice DRAFT"),
        ("CN-2", "INV-1", "the credit is DRAFT, the invoice AUTHORISED"),
        ("CN-9", "INV-1", "there is no credit CN-9"),
        ("CN-1", "INV-8", "there is no invoice INV-8"),
        ("", "INV-1", "there is no credit"),
    ):
        assert reason in refusal(sandbox, "apply_credit", credit=credit, invoice=invoice)
    for amount in ("0", "-1", "40.01"):
        reason = refusal(sandbox, "apply_credit", credit="CN-1", invoice="INV-1", amount=amount)
        assert reason == "the amount must be more than 0 and at most 40.00"
    assert "is not applied" in refusal(sandbox, "remove_allocation", credit="CN-1", invoice="USD-1")
    assert "only the amount due" in refusal(sandbox, "credit_invoice", invoice="INV-1", amount="1000")
    assert "with credits cannot be changed" in refusal(sandbox, "update_invoice", invoice="INV-1", contact="Bo Ltd")
    act("credit_invoice", invoice="USD-1", amount="5")
    assert "without payments and credits" in refusal(sandbox, "void_invoice", invoice="USD-1")


def test_credit_notes_are_approved_voided_and_deleted_like_invoices(books: Books, credited: dict[str, str]) -> None:
    act, sandbox = books.sandbox.simulate, books.sandbox
    assert "more than 0" in refusal(sandbox, "create_credit_note", contact="Acme Ltd", total="0")
    assert "more than 0" in refusal(sandbox, "create_prepayment", contact="Acme Ltd", total="-5")
    assert "type must be one of" in refusal(
        sandbox, "create_overpayment", contact="Acme Ltd", total="5", type="RECEIVE-PREPAYMENT"
    )
    assert "AUTHORISED credit cannot be approved" in refusal(sandbox, "approve_credit_note", credit="CN-1")
    assert "draft or submitted" in refusal(sandbox, "delete_credit_note", credit="CN-1")
    assert "not applied to an invoice" in refusal(sandbox, "void_credit", credit="CN-1")
    assert "not applied to an invoice" in refusal(sandbox, "void_credit", credit="CN-2")

    submitted = act("create_credit_note", contact="Acme Ltd", total="5", status="SUBMITTED")
    assert submitted["number"] == "CN-0001"
    assert act("delete_credit_note", credit="CN-0001") == {"credit": submitted["credit"]}
    assert act("approve_credit_note", credit="CN-2") == {"credit": credited["CN-2"]}
    assert act("void_credit", credit="CN-3") == {"credit": credited["CN-3"]}

    rows = books.get("CreditNotes", order="CreditNoteNumber ASC").json()["CreditNotes"]
    assert {row["CreditNoteNumber"]: (row["Status"], row["RemainingCredit"]) for row in rows} == {
        "CN-0001": ("DELETED", 0),
        "CN-1": ("AUTHORISED", 50.0),
        "CN-2": ("AUTHORISED", 9.5),
        "CN-3": ("VOIDED", 0),
    }


def test_credits_send_the_webhooks_that_xero_has(books: Books) -> None:
    act, sandbox = books.sandbox.simulate, books.sandbox
    act("create_contact", name="A", tenant=books.tenant)
    invoice = act("create_invoice", contact="A", number="INV-1", total="100")["invoice"]
    with received_bodies(sandbox) as bodies:

        def events_of(action: str, **values: Any) -> list[tuple[str, str, str]]:
            delivered_events(sandbox, bodies)
            act(action, **values)
            events = delivered_events(sandbox, bodies)
            return [(event["eventCategory"], event["eventType"], event["resourceId"]) for event in events]

        assert events_of("create_overpayment", contact="A", total="20", reference="over") == []
        overpayment = books.ids("Overpayments")[0]
        assert events_of("apply_credit", credit=overpayment, invoice="INV-1", amount="5") == [
            ("INVOICE", "UPDATE", invoice)
        ]
        ((category, event_type, prepayment),) = events_of("create_prepayment", contact="A", total="20")
        assert (category, event_type) == ("PREPAYMENT", "CREATE")
        assert events_of("create_credit_note", contact="A", total="20", webhook=False) == []
        (credit_note,) = books.ids("CreditNotes")
        updates = [("CREDITNOTE", "UPDATE", credit_note), ("INVOICE", "UPDATE", invoice)]
        arguments = {"credit": "CN-0001", "invoice": "INV-1"}
        assert events_of("apply_credit", **arguments) == updates
        assert events_of("remove_allocation", **arguments) == updates
        assert events_of("apply_credit", **arguments, invoice_webhook=False) == updates[:1]
        assert events_of("remove_allocation", **arguments, invoice_webhook=False) == updates[:1]
        assert events_of("apply_credit", **arguments, webhook=False) == []
        assert events_of("remove_allocation", **arguments, webhook=False) == []
        assert events_of("void_credit", credit=prepayment) == [("PREPAYMENT", "UPDATE", prepayment)]
        credited_events = events_of("credit_invoice", invoice="INV-1", amount="1")
        assert [event[:2] for event in credited_events] == [
            ("CREDITNOTE", "CREATE"),
            ("CREDITNOTE", "UPDATE"),
            ("INVOICE", "UPDATE"),
        ]
        assert events_of("credit_invoice", invoice="INV-1", amount="1", webhook=False) == []


def test_the_webhooks_of_credits_carry_type_and_status(books: Books) -> None:
    act, sandbox = books.sandbox.simulate, books.sandbox
    act("create_contact", name="A", tenant=books.tenant)
    with received_bodies(sandbox) as bodies:
        prepayment = act("create_prepayment", contact="A", total="20")["credit"]
        credit_note = act("create_credit_note", contact="A", total="20", status="DRAFT", type="ACCPAYCREDIT")["credit"]
        act("update_contact", contact="A", email="a@x.test")
        events = {event["resourceId"]: event for event in delivered_events(sandbox, bodies)}
    assert events[credit_note]["data"] == {"Type": "ACCPAYCREDIT", "Status": "DRAFT"}
    assert events[credit_note]["resourceUrl"] == f"https://api.xero.com/api.xro/2.0/CreditNotes/{credit_note}"
    data = events[prepayment]["data"]
    assert (data["Type"], data["Status"]) == ("RECEIVE-PREPAYMENT", "AUTHORISED")
    updated = datetime.fromisoformat(data["UpdatedDateUTCString"])
    assert abs(datetime.now(UTC) - updated) < timedelta(minutes=1)
    assert "/Prepayments/" in events[prepayment]["resourceUrl"]
    assert [event for event in events.values() if event["eventCategory"] == "CONTACT" and "data" in event] == []


def test_a_merge_moves_credits_without_changing_their_versions(books: Books, credited: dict[str, str]) -> None:
    before = books.single("CreditNotes", credited["CN-1"])
    books.sandbox.simulate("merge_contacts", source="Acme Ltd", target="Bo Ltd")
    after = books.single("CreditNotes", credited["CN-1"])
    assert after["Contact"]["ContactID"] == credited["other"]
    assert after["UpdatedDateUTC"] == before["UpdatedDateUTC"]
    for resource in CREDIT_RESOURCES:
        rows = books.get(resource, page="1").json()[resource]
        assert {row["Contact"]["ContactID"] for row in rows} == {credited["other"]}
    assert "merged" in refusal(books.sandbox, "create_credit_note", contact=credited["acme"], total="1")
    assert books.sandbox.simulate("apply_credit", credit="CN-1", invoice="INV-1")["due"] == "0.00"


def test_the_control_api_counts_and_shows_credits(books: Books, credited: dict[str, str]) -> None:
    counts = [organisation["credits"] for organisation in books.sandbox.state()["organisations"]]
    assert counts == [7, 0]
    credits = books.sandbox.control("GET", f"world?tenant={books.tenant}")["credits"]
    (credit,) = [credit for credit in credits if credit["number"] == "CN-1"]
    assert (credit["id"], credit["status"], credit["total"]) == (credited["CN-1"], "AUTHORISED", "100.00")
    assert [allocation["amount"] for allocation in credit["allocations"]] == ["50"]


def test_limits_are_enforced_and_sent_in_headers(books: Books) -> None:
    books.sandbox.control("PUT", "limits", json={"calls_per_minute": 3, "calls_per_day": 50})
    second = books.connections[1]["tenantId"]
    for remaining in (2, 1, 0):
        response = books.get("Organisation", tenant=second)
        assert (response.status_code, response.headers["X-MinLimit-Remaining"]) == (200, str(remaining))
    refused = books.get("Organisation", tenant=second)
    assert (refused.status_code, refused.headers["X-Rate-Limit-Problem"]) == (429, "minute")
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert books.get("Organisation").status_code == 200, "another organisation has a budget of its own"


def test_responses_are_compressed_on_request(books: Books) -> None:
    contact = books.sandbox.simulate("create_contact", name="A", tenant=books.tenant)["contact"]
    for _ in range(5):
        books.sandbox.simulate("create_invoice", contact=contact)
    response = books.get("Invoices", page="1")
    assert response.headers["content-encoding"] == "gzip"
    assert len(response.json()["Invoices"]) == 5


@pytest.mark.parametrize("fault", [{"type": "status", "status": 503}, {"type": "drop"}, {"type": "hang", "seconds": 3}])
def test_faults_occur_as_often_as_configured(books: Books, fault: dict[str, Any]) -> None:
    books.sandbox.faults(api=[{"vendor": "xero", "path": "Organisation", "times": 1, **fault}])
    books.sandbox.http.timeout = httpx.Timeout(1)
    try:
        first: int | str = books.get("Organisation").status_code
    except httpx.HTTPError as error:
        first = type(error).__name__
    assert first in {503, "RemoteProtocolError", "ReadError", "ReadTimeout"}
    books.sandbox.http.timeout = httpx.Timeout(30)
    assert books.get("Organisation").status_code == 200


def test_a_webhook_that_is_never_acknowledged_is_disabled_after_24_hours(sandbox: Sandbox) -> None:
    sandbox.simulate("add_organisation", name="First")

    async def receiver(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        intent = b"wrong" not in dict(scope["headers"]).get(b"x-xero-signature", b"")
        status = statuses.pop(0) if statuses else 500
        assert intent
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    statuses = [200, 401, 200, 401]
    with serving(receiver) as url:
        sandbox.control("PUT", "app", json={"webhook_url": url})
        assert sandbox.control("POST", "webhooks/enable")["webhook_status"] == "ok"
        sandbox.control("PUT", "clock", json={"speed": 1_000_000})
        sandbox.simulate("create_contact", name="A")
        wait_until(lambda: sandbox.state()["webhook_status"] == "disabled", description="the webhook's end")
    assert sandbox.state()["deliveries"]["xero_failed"] > 20


def test_a_receiver_that_returns_a_body_fails_the_intent_to_receive(sandbox: Sandbox) -> None:
    async def talkative(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"thank you"})

    with serving(talkative) as url:
        sandbox.control("PUT", "app", json={"webhook_url": url})
        response = sandbox.http.post("/control/webhooks/enable")
    assert (response.status_code, response.json()["webhook_status"]) == (409, "failed")


def test_a_seed_and_a_size_always_give_the_same_data_which_survives_a_restart(tmp_path: Path) -> None:
    first = Generator(SandboxWorld(), 7, 20).fill()
    second = Generator(SandboxWorld(), 7, 20).fill()
    other_world = Generator(SandboxWorld(), 8, 20).fill()

    assert list(first.organisations) == list(second.organisations) != list(other_world.organisations)
    (account,) = first.accounts.values()
    assert len(account.records["company"]) == 20
    save(first, tmp_path / "world.json")
    assert load(tmp_path / "world.json") == first


def test_a_generated_world_has_credits_that_do_not_change_what_is_due() -> None:
    world = Generator(SandboxWorld(), 7, 400).fill()
    organisations = list(world.organisations.values())
    credits = [credit for organisation in organisations for credit in organisation.credits.values()]
    contact_count = sum(len(organisation.contacts) for organisation in organisations)
    counts = Counter((credit.type, credit.status) for credit in credits)

    assert counts["ACCRECCREDIT", "AUTHORISED"] == pytest.approx(contact_count / 8, abs=2)
    assert {credit.resource for credit in credits if credit.remaining} == set(CreditResource)
    assert counts["ACCRECCREDIT", "PAID"] > 1
    for organisation in organisations:
        invoices = list(organisation.invoices.values())
        assert all(invoice.due == 0 for invoice in invoices if invoice.status == "PAID")
        assert all(invoice.paid == sum(payment.amount for payment in invoice.payments) for invoice in invoices)
        for invoice in invoices:
            applied = sum(credit.applied_to(invoice.id) for credit in organisation.credits_of(invoice))
            assert applied == invoice.credited


def test_data_that_was_saved_before_the_sandbox_had_credits_is_loaded(tmp_path: Path) -> None:
    world = Generator(SandboxWorld(), 7, 5).fill()
    data = WORLD.dump_python(world, mode="json")
    for organisation in data["organisations"].values():
        del organisation["credits"], organisation["next_credit_number"]
        for invoice in organisation["invoices"].values():
            invoice["credits"] = [{"id": str(uuid4()), "amount": "1.00", "date": "2026-01-01"}]
    (tmp_path / "world.json").write_text(json.dumps(data))

    loaded = load(tmp_path / "world.json")

    assert loaded is not None
    for organisation, before in zip(loaded.organisations.values(), world.organisations.values(), strict=True):
        assert organisation.invoices == before.invoices
        assert (organisation.credits, organisation.next_credit_number) == ({}, 1)


def contract(name: str, schema_name: str, *, is_extended: bool = False) -> dict[str, Any]:
    """A schema of a published contract; undocumented fields are forbidden unless it extends another schema."""
    path = OPENAPI / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    document = json.loads(path.read_text())
    assert schema_name in document["components"]["schemas"]
    _forgive(document, is_extended=is_extended)
    return {"$ref": f"#/components/schemas/{schema_name}", "components": document["components"]}


def _forgive(node: Any, *, is_extended: bool) -> None:
    """Convert OpenAPI 3.0's `nullable` and formats to JSON Schema, and forbid undocumented fields."""
    if isinstance(node, dict):
        if "properties" in node and node.get("type") == "object" and not is_extended:
            node.setdefault("additionalProperties", False)
        if node.pop("nullable", False) and "type" in node:
            node["type"] = [node["type"], "null"]
        for value in node.values():
            _forgive(value, is_extended=is_extended)
    elif isinstance(node, list):
        for value in node:
            _forgive(value, is_extended=is_extended)


UNDOCUMENTED = {
    # Xero sends these (reference pages), but its OpenAPI document omits them.
    "DateString",
    "DueDateString",
    "Id",
    "Status",
    "ProviderName",
    "DateTimeUTC",
    "DateUTCString",
}


def _documented(value: Any, *, inside: bool = False) -> Any:
    if isinstance(value, dict):
        extra = UNDOCUMENTED if not inside else UNDOCUMENTED - {"Status"}
        return {key: _documented(item, inside=True) for key, item in value.items() if key not in extra}
    return [_documented(item, inside=True) for item in value] if isinstance(value, list) else value


def conforming_response(path: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The response of a generated world, checked against a schema; `{invoice}` and the like in a path are ids."""
    world = Generator(SandboxWorld(), 3, 12).fill()
    organisation = next(iter(world.organisations.values()))
    ids = {credit.resource.value: str(credit.id) for credit in organisation.credits.values()}
    ids["invoice"] = str(next(iter(organisation.invoices)))
    sales = (invoice for invoice in organisation.invoices.values() if invoice.is_sale and invoice.status != "DRAFT")
    ids["sale"] = str(next(sales).id)
    with serving(server.create(world, limits=Limits(enabled=False))) as url:
        override_settings(server.environment(url))
        request_scopes("accounting.payments.read")
        response = Books(Sandbox(url)).get(path.format(**ids), tenant=str(organisation.tenant_id))
    assert response.status_code == 200, response.text
    payload: dict[str, Any] = response.json()
    jsonschema.Draft202012Validator(schema).validate(_documented(payload))
    return payload


@pytest.mark.parametrize(
    ("path", "schema_name"),
    [
        ("Invoices?page=1", "Invoices"),
        ("Invoices?page=1&summaryOnly=true", "Invoices"),
        ("Contacts?page=1&includeArchived=true", "Contacts"),
        ("Organisation", "Organisations"),
        ("Invoices/{invoice}", "Invoices"),
        ("Invoices/{invoice}/History", "HistoryRecords"),
        ("Invoices/{sale}/OnlineInvoice", "OnlineInvoices"),
    ],
)
def test_responses_conform_to_xeros_published_contract(path: str, schema_name: str) -> None:
    payload = conforming_response(path, contract("xero-accounting-read.json", schema_name))
    assert payload[schema_name], "an empty answer proves nothing"


@pytest.mark.parametrize("path", ["{0}", "{0}?page=1", "{0}/{{{0}}}"])
@pytest.mark.parametrize("resource", CREDIT_RESOURCES)
def test_credits_conform_to_xeros_published_contract(path: str, resource: str) -> None:
    payload = conforming_response(path.format(resource), contract("xero-credits-read.json", resource))
    assert payload[resource], "an empty answer proves nothing"


def test_webhooks_conform_to_xeros_published_contract(sandbox: Sandbox) -> None:
    schema = contract("xero-webhooks.json", "WebhookEvent")
    sandbox.simulate("add_organisation", name="First")
    with received_bodies(sandbox) as bodies:
        contact = sandbox.simulate("create_contact", name="A")["contact"]
        sandbox.simulate("create_invoice", contact=contact)
        wait_until(lambda: sandbox.state()["pending_deliveries"] == 0 and len(bodies) > 4)
    for body in bodies[4:]:
        jsonschema.Draft202012Validator(schema).validate(json.loads(body))
    last = json.loads(bodies[-1])
    assert last["lastEventSequence"] - last["firstEventSequence"] + 1 == len(last["events"])


def test_credit_note_webhooks_conform_to_xeros_published_contract(sandbox: Sandbox) -> None:
    schema = contract("xero-webhooks.json", "CreditNoteWebhookEvent", is_extended=True)
    sandbox.simulate("add_organisation", name="First")
    sandbox.simulate("create_contact", name="A")
    with received_bodies(sandbox) as bodies:
        sandbox.simulate("create_credit_note", contact="A", total="10", status="DRAFT")
        sandbox.simulate("approve_credit_note", credit="CN-0001")
        wait_until(lambda: sandbox.state()["pending_deliveries"] == 0 and len(bodies) > 4)
    for body in bodies[4:]:
        jsonschema.Draft202012Validator(schema).validate(json.loads(body))
