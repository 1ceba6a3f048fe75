"""The sandbox's Xero, checked against the vendor's rules and, if the files are available, its OpenAPI document."""

from __future__ import annotations

import json
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
from sandbox.world import World as SandboxWorld
from sandbox.world import load, save
from tests.support.serving import read_body, serving, wait_until
from tests.support.world import Sandbox
from worker.vendors.xero import oauth

OPENAPI = Path(__file__).resolve().parents[3] / "shared" / "reference" / "openapi"
CLIENT = ("sandbox-client", "sandbox-secret")
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
        key = "InvoiceID" if resource == "Invoices" else "ContactID"
        response = self.get(resource, **query)
        assert response.status_code == 200, response.text
        return [row[key] for row in response.json()[resource]]


def authorise(sandbox: Sandbox) -> dict[str, Any]:
    request = oauth.begin(REDIRECT)
    response = sandbox.http.get(request.url, follow_redirects=False)
    query = parse_qs(urlsplit(response.headers["location"]).query)
    assert query["state"] == [request.state]
    return oauth.exchange_code(request, query["code"][0])


def token_call(sandbox: Sandbox, **form: str) -> httpx.Response:
    return sandbox.http.post("/xero/connect/token", data=form, auth=CLIENT)


@pytest.fixture
def books(sandbox: Sandbox) -> Books:
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
    override_settings({"XERO_SCOPES": f"{settings().xero_scopes} accounting.transactions.read accounting.settings"})
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


def contract(name: str, schema_name: str) -> dict[str, Any]:
    path = OPENAPI / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    document = json.loads(path.read_text())
    assert schema_name in document["components"]["schemas"]
    _forgive(document)
    return {"$ref": f"#/components/schemas/{schema_name}", "components": document["components"]}


def _forgive(node: Any) -> None:
    """Convert OpenAPI 3.0's `nullable` and formats to JSON Schema, and forbid undocumented fields."""
    if isinstance(node, dict):
        if "properties" in node and node.get("type") == "object":
            node.setdefault("additionalProperties", False)
        if node.pop("nullable", False) and "type" in node:
            node["type"] = [node["type"], "null"]
        for value in node.values():
            _forgive(value)
    elif isinstance(node, list):
        for value in node:
            _forgive(value)


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


@pytest.mark.parametrize(
    ("path", "schema_name"),
    [
        ("Invoices?page=1", "Invoices"),
        ("Invoices?page=1&summaryOnly=true", "Invoices"),
        ("Contacts?page=1&includeArchived=true", "Contacts"),
        ("Organisation", "Organisations"),
        ("Invoices/{invoice}", "Invoices"),
        ("Invoices/{invoice}/History", "HistoryRecords"),
    ],
)
def test_responses_conform_to_xeros_published_contract(path: str, schema_name: str) -> None:
    schema = contract("xero-accounting-read.json", schema_name)
    world = Generator(SandboxWorld(), 3, 12).fill()
    invoice = next(iter(next(iter(world.organisations.values())).invoices))
    with serving(server.create(world, limits=Limits(enabled=False))) as url:
        override_settings(server.environment(url))
        books = Books(Sandbox(url))
        response = books.sandbox.http.get(
            f"/xero/api.xro/2.0/{path.format(invoice=invoice)}",
            headers={
                **books.headers,
                "Xero-Tenant-Id": str(next(iter(world.organisations))),
                "Accept": "application/json",
            },
        )
    assert response.status_code == 200
    payload = response.json()
    assert payload[schema_name], "an empty answer proves nothing"
    jsonschema.Draft202012Validator(schema).validate(_documented(payload))


def test_webhooks_conform_to_xeros_published_contract(sandbox: Sandbox) -> None:
    schema = contract("xero-webhooks.json", "WebhookEvent")
    sandbox.simulate("add_organisation", name="First")
    bodies: list[bytes] = []

    async def receiver(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        body = await read_body(receive)
        bodies.append(body)
        status = 401 if len(bodies) in {2, 4} else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with serving(receiver) as url:
        sandbox.control("PUT", "app", json={"webhook_url": url})
        sandbox.control("POST", "webhooks/enable")
        contact = sandbox.simulate("create_contact", name="A")["contact"]
        sandbox.simulate("create_invoice", contact=contact)
        wait_until(lambda: sandbox.state()["pending_deliveries"] == 0 and len(bodies) > 4)
    for body in bodies[4:]:
        jsonschema.Draft202012Validator(schema).validate(json.loads(body))
    last = json.loads(bodies[-1])
    assert last["lastEventSequence"] - last["firstEventSequence"] + 1 == len(last["events"])
