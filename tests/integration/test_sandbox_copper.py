"""The sandbox's Copper, checked against the vendor's rules."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.crm import BASE, Crm
from tests.support.serving import wait_until
from tests.support.world import Sandbox


@pytest.fixture
def crm(sandbox: Sandbox) -> Crm:
    return Crm(sandbox)


def test_a_key_is_only_valid_with_its_owners_email_address(crm: Crm) -> None:
    assert crm.ask("GET", "account").json()["name"] == "Acme"
    me = crm.ask("GET", "users/me").json()
    assert me["groups"] == [{"id": 1, "name": "Sales"}]
    assert crm.ask("POST", "users/search", {}).json() == [me]
    assert crm.ask("GET", f"users/{me['id']}").json() == me
    crm.headers["X-PW-UserEmail"] = "else@copper.test"
    response = crm.ask("GET", "account")
    assert response.status_code == 401
    assert response.json() == {"success": False, "status": 401, "message": "Invalid Authorization Credentials"}


def test_search_takes_ids_addresses_ranges_order_and_pages(crm: Crm) -> None:
    people = [crm.make("person", f"P{number}", emails=[f"p{number}@x.test"]) for number in range(7)]
    crm.sandbox.control("PUT", "clock", json={"offset_seconds": 100})
    crm.act("update_record", type="person", id=people[3], name="Changed")
    modified = crm.ask("GET", f"people/{people[3]}").json()["date_modified"]

    assert crm.ids("people", ids=[people[1], people[2], 99]) == people[1:3]
    assert crm.ids("people", emails=["P4@X.test"]) == [people[4]]
    assert crm.ids("people", minimum_modified_date=modified) == [people[3]]
    assert crm.ids("people", maximum_created_date=1) == []
    assert crm.ids("people", sort_by="date_created", page_size=3, page_number=2) == people[3:6]
    assert crm.ids("people", sort_by="date_modified", sort_direction="desc")[0] == people[3]
    response = crm.ask("POST", "people/search", {"page_size": 2})
    assert (len(response.json()), response.headers["X-PW-TOTAL"]) == (2, "7")
    for wrong in ({"page_size": 201}, {"ids": list(range(201))}, {"sort_by": "nothing"}):
        assert crm.ask("POST", "people/search", wrong).status_code == 422
    assert crm.ask("POST", "people/search", {"page_number": 501, "page_size": 200}).status_code == 422
    assert crm.ask("POST", "people/fetch_by_email", {"email": "p4@x.test"}).json()["id"] == people[4]


@pytest.fixture
def people(crm: Crm) -> dict[str, int]:
    """A company, three people, a lead and two opportunities that differ in every searchable field."""
    company = crm.make("company", "Acme")
    ids = {
        "acme": company,
        "ann": crm.make("person", "Ann Lee", emails=["ann@acme.test"], company=company),
        "bob": crm.make("person", "Bob Moe", emails=["bob@acme.test", "b@home.test"], company=company),
        "cid": crm.make("person", "Cid", emails=["cid@else.test"]),
        "lea": crm.make("lead", "Lea Fay", emails=["lea@x.test"]),
    }
    ids["won"] = crm.make("opportunity", "Won deal", company=company, primary_contact=ids["ann"])
    ids["open"] = crm.make("opportunity", "Open deal")
    crm.act("relate", type="opportunity", id=ids["won"], to_type="person", to_id=ids["cid"])
    for record_type, name, values in (
        ("person", "ann", {"tags": ["VIP", "north"], "phones": ["+64 9 555-0101"], "contact_type_id": 451_492}),
        ("person", "ann", {"address": {"city": "Auckland", "country": "NZ", "postal_code": "1010"}}),
        ("person", "bob", {"address": {"city": "Leeds", "state": "Yorkshire"}, "assignee_id": 7}),
        ("lead", "lea", {"status": "Qualified", "monetary_value": "99.50"}),
        ("company", "acme", {"email_domain": "acme.test"}),
        ("opportunity", "won", {"status": "Won", "stage_id": 987_791, "close_date": "2026-06-30"}),
        ("opportunity", "won", {"monetary_value": 5_000}),
    ):
        for field, value in values.items():
            crm.act("set_field", type=record_type, id=ids[name], field=field, value=value)
    return ids


@pytest.mark.parametrize(
    ("plural", "search", "expected"),
    [
        ("people", {"opportunity_ids": ["won"]}, ["ann", "cid"]),
        ("people", {"opportunity_ids": ["open"]}, []),
        ("people", {"tags": ["vip"]}, ["ann"]),
        ("people", {"tags": ["no such"]}, []),
        ("people", {"city": "auckland"}, ["ann"]),
        ("people", {"state": "Yorkshire", "name": "bob"}, ["bob"]),
        ("people", {"country": "NZ", "postal_code": "1010"}, ["ann"]),
        ("people", {"company_ids": ["acme"]}, ["ann", "bob"]),
        ("people", {"company_ids": [-2]}, ["cid"]),
        ("people", {"assignee_ids": [7]}, ["bob"]),
        ("people", {"assignee_ids": [-2, 7]}, ["ann", "bob", "cid"]),
        ("people", {"contact_type_ids": [451_492]}, ["ann"]),
        ("people", {"phone_number": "555 0101"}, ["ann"]),
        ("people", {"emails": ["B@HOME.test", "cid@else.test"]}, ["bob", "cid"]),
        ("people", {"maximum_interaction_count": 0}, ["ann", "bob", "cid"]),
        ("people", {"minimum_interaction_date": 0}, []),
        ("leads", {"emails": "LEA@x.test"}, ["lea"]),
        ("leads", {"emails": "else@x.test"}, []),
        ("leads", {"status_ids": [208_233], "include_converted_leads": False}, ["lea"]),
        ("leads", {"status_ids": [208_231]}, []),
        ("leads", {"minimum_monetary_value": 99.5, "maximum_monetary_value": "99.50"}, ["lea"]),
        ("companies", {"email_domains": ["ACME.test"]}, ["acme"]),
        ("companies", {"email_domains": ["x.test"]}, []),
        ("opportunities", {"status_ids": [1]}, ["won"]),
        ("opportunities", {"status_ids": [0, 1], "company_ids": [-2]}, ["open"]),
        ("opportunities", {"primary_contact_ids": ["ann"]}, ["won"]),
        ("opportunities", {"pipeline_stage_ids": [987_791], "pipeline_ids": [213_214]}, ["won"]),
        ("opportunities", {"minimum_monetary_value": 5_000.01}, []),
        ("opportunities", {"minimum_close_date": 1_782_777_600, "maximum_close_date": 1_782_777_600}, ["won"]),
    ],
)
def test_searches_filter_as_copper_does(
    crm: Crm, people: dict[str, int], plural: str, search: dict[str, Any], expected: list[str]
) -> None:
    body = {
        key: [people.get(item, item) if isinstance(item, str) else item for item in value]
        if isinstance(value, list) and key.endswith("ids")
        else value
        for key, value in search.items()
    }
    assert sorted(crm.ids(plural, **body)) == sorted(people[name] for name in expected)


@pytest.mark.parametrize(
    ("plural", "body", "named"),
    [
        ("people", {"nonsense": 1}, "nonsense is not supported by the sandbox"),
        ("people", {"emails": "ann@acme.test"}, "emails"),
        ("leads", {"emails": ["lea@x.test"]}, "emails"),
        ("leads", {"include_converted_leads": True}, "include_converted_leads"),
        ("companies", {"emails": ["a@x.test"]}, "emails is not supported"),
        ("opportunities", {"city": "x"}, "city is not supported"),
        ("companies", {"sort_by": "title"}, "sort_by"),
        ("people", {"page_number": 0}, "page_number"),
        ("people", {"custom_fields": [{"custom_field_definition_id": 5, "value": 1}]}, "5 cannot be searched"),
        ("users", {"name": "Sam"}, "name is not supported"),
    ],
)
def test_a_search_refuses_unsupported_filters_by_name(crm: Crm, plural: str, body: dict[str, Any], named: str) -> None:
    response = crm.ask("POST", f"{plural}/search", body)
    assert response.status_code == 422
    assert named in response.json()["message"]


def test_unsupported_paths_parameters_and_bodies_are_refused_by_name(crm: Crm) -> None:
    person = crm.make("person")
    for method, path, status in (
        ("GET", "tasks/1", 404),
        ("POST", "people", 404),
        ("PUT", "tasks/1", 405),
        ("DELETE", f"people/{person}", 405),
        ("POST", "cats/search", 404),
        ("GET", "people/x", 404),
    ):
        response = crm.ask(method, path)
        assert (response.status_code, f"does not support {method} /{path}" in response.json()["message"]) == (
            status,
            True,
        )
    response = crm.ask("GET", f"people/{person}?expand=true")
    assert (response.status_code, "expand" in response.json()["message"]) == (422, True)
    for body in (b"[]", b"{", b"null", b'"x"', b"\xff"):
        path = f"{BASE}/people/search"
        assert crm.sandbox.http.post(path, content=body, headers=crm.headers).status_code == 422
    assert crm.ask("POST", "people/fetch_by_email", []).status_code == 422
    assert crm.ask("GET", f"people/{9 * 10**30}").status_code == 404
    with_body = crm.sandbox.http.request("GET", f"{BASE}/account", content=b"{}", headers=crm.headers)
    assert (with_body.status_code, with_body.headers["content-type"]) == (400, "text/html; charset=utf-8")


def test_paging_and_sorting_may_stand_in_the_query(crm: Crm, people: dict[str, int]) -> None:
    response = crm.ask("POST", "people/search?page_size=2&page_number=1&sort_by=last_name&sort_direction=desc", {})
    assert [record["id"] for record in response.json()] == [people["bob"], people["ann"]]
    assert crm.ids("people", sort_by="city") == [people["cid"], people["ann"], people["bob"]]
    assert crm.ids("people") == [people["ann"], people["bob"], people["cid"]], "people go by first name"
    assert crm.ids("opportunities", sort_by="monetary_value", sort_direction="desc")[0] == people["won"]
    (only,) = crm.ask("POST", "people/search", {"ids": [people["ann"]], "fields": ["name"]}).json()
    assert only == {"id": people["ann"], "name": "Ann Lee"}


def test_custom_fields_are_returned_and_searched_by_range(crm: Crm, people: dict[str, int]) -> None:
    define = {"account": crm.account["account"], "available_on": ["person"]}
    money = crm.sandbox.simulate("define_field", name="Credit", data_type="Currency", currency="NZD", **define)["field"]
    day = crm.sandbox.simulate("define_field", name="Since", data_type="Date", **define)["field"]
    crm.act("set_custom_field", type="person", id=people["ann"], field=money, value=120.5)
    crm.act("set_custom_field", type="person", id=people["bob"], field=money, value=80)
    crm.act("set_custom_field", type="person", id=people["bob"], field=day, value="02/28/2026")
    values = crm.ask("GET", f"people/{people['ann']}").json()["custom_fields"]
    assert values == [
        {"custom_field_definition_id": money, "value": 120.5},
        {"custom_field_definition_id": day, "value": None},
    ]
    assert [definition["name"] for definition in crm.ask("GET", "custom_field_definitions").json()] == [
        "Credit",
        "Since",
    ]

    def having(field: int, **bounds: Any) -> list[int]:
        return crm.ids("people", custom_fields=[{"custom_field_definition_id": field, **bounds}])

    assert having(money, minimum_value=100) == [people["ann"]]
    assert having(money, minimum_value=80, maximum_value=100) == [people["bob"]]
    assert having(day, minimum_value=1_772_236_800) == [people["bob"]]
    assert having(day, minimum_value=1_772_236_801) == []


def test_records_have_every_field_that_copper_returns(crm: Crm, people: dict[str, int]) -> None:
    person = crm.ask("GET", f"people/{people['ann']}").json()
    assert (person["first_name"], person["last_name"], person["tags"]) == ("Ann", "Lee", ["VIP", "north"])
    assert person["phone_numbers"] == [{"number": "+64 9 555-0101", "category": "work"}]
    assert person["address"]["city"] == "Auckland"
    lead = crm.ask("GET", f"leads/{people['lea']}").json()
    assert (lead["status"], lead["status_id"], lead["monetary_value"]) == ("Qualified", 208_233, 99.5)
    deal = crm.ask("GET", f"opportunities/{people['won']}").json()
    assert (deal["close_date"], deal["win_probability"], deal["pipeline_stage_id"]) == ("6/30/2026", 40, 987_791)
    assert crm.ask("GET", f"companies/{people['acme']}").json()["email_domain"] == "acme.test"
    names = {"people": "ann", "leads": "lea", "companies": "acme", "opportunities": "won"}
    for plural, name in names.items():
        (record,) = crm.ask("POST", f"{plural}/search", {"ids": [people[name]]}).json()
        assert record == crm.ask("GET", f"{plural}/{people[name]}").json()


def test_a_subscription_is_returned_as_created_and_keeps_its_type_and_event(crm: Crm) -> None:
    body = {"target": "https://x.test/", "type": "activity_log", "event": "new", "secret": {"k": "v"}}
    payload = crm.ask("POST", "webhooks", {**body, "headers": {"a": "b"}, "custom_field_computed_values": True}).json()
    assert set(payload) == {*body, "id", "headers", "custom_field_computed_values", "created_at"}
    crm.sandbox.control("PUT", "clock", json={"offset_seconds": 1_000})
    assert crm.ask("GET", f"webhooks/{payload['id']}").json() == payload, "made at a fixed time"
    assert crm.ask("GET", "webhooks").json() == [payload]
    for key in ("type", "event"):
        response = crm.ask("PUT", f"webhooks/{payload['id']}", {key: "update"})
        assert (response.status_code, key in response.json()["message"]) == (422, True)
    changed = crm.ask("PUT", f"webhooks/{payload['id']}", {"target": "https://y.test/", "headers": {}}).json()
    assert changed == {**payload, "target": "https://y.test/", "headers": {}}
    for target in ("http://x.test/", "https://", "https://[", "ftp://x.test/"):
        assert crm.ask("PUT", f"webhooks/{payload['id']}", {"target": target}).status_code == 422
    assert crm.ask("DELETE", f"webhooks/{payload['id']}").json() == {"id": payload["id"]}
    assert crm.ask("GET", "webhooks").json() == []


def test_records_have_the_fields_of_their_type(crm: Crm) -> None:
    company = crm.make("company")
    person = crm.make("person", emails=["a@x.test"], company=company)
    lead = crm.make("lead", emails=["l@x.test"])
    deal = crm.make("opportunity", company=company, primary_contact=person)

    assert crm.ask("GET", f"leads/{lead}").json()["email"] == {"email": "l@x.test", "category": "work"}
    payload = crm.ask("GET", f"people/{person}").json()
    assert (payload["emails"], payload["company_id"]) == ([{"email": "a@x.test", "category": "work"}], company)
    payload = crm.ask("GET", f"opportunities/{deal}").json()
    assert (payload["company_id"], payload["primary_contact_id"]) == (company, person)
    assert "emails" not in crm.ask("GET", f"companies/{company}").json()
    crm.act("delete_record", type="lead", id=lead)
    assert crm.ask("GET", f"leads/{lead}").status_code == 404


def test_relations_go_both_ways_and_end_with_the_record(crm: Crm) -> None:
    company, other_company = crm.make("company"), crm.make("company")
    person = crm.make("person", company=company)
    deal = crm.make("opportunity", company=company)
    crm.act("relate", type="opportunity", id=deal, to_type="company", to_id=other_company)
    crm.act("relate", type="person", id=person, to_type="opportunity", to_id=deal)

    def related(path: str) -> set[tuple[str, int]]:
        return {(related_record["type"], related_record["id"]) for related_record in crm.ask("GET", path).json()}

    assert related(f"opportunities/{deal}/related") == {
        ("company", company),
        ("company", other_company),
        ("person", person),
    }
    assert related(f"opportunities/{deal}/related/companies") == {("company", company), ("company", other_company)}
    assert related(f"companies/{other_company}/related") == {("opportunity", deal)}
    assert related(f"people/{person}/related") == {("company", company), ("opportunity", deal)}
    crm.act("unrelate", type="opportunity", id=deal, to_type="company", to_id=company)
    crm.act("delete_record", type="company", id=other_company)
    assert related(f"opportunities/{deal}/related") == {("person", person)}


def test_notifications_contain_the_secret_are_sent_once_and_not_for_relations(crm: Crm) -> None:
    with crm.receiving("new", "update", "delete", status=500) as notifications:
        ids = [crm.make("person") for _ in range(35)]
        wait_until(lambda: len({record_id for notice in notifications for record_id in notice["ids"]}) == 35)
        assert max(len(notice["ids"]) for notice in notifications) <= 30
        assert {notification["event"] for notification in notifications} == {"new"}
        assert all(
            notification["k"] == "v" and notification["headers"]["x-mine"] == "1" for notification in notifications
        )
        deal = crm.make("opportunity")
        before = len(notifications)
        crm.act("relate", type="opportunity", id=deal, to_type="person", to_id=ids[0])
        crm.act("move_person", person=ids[0], company=crm.make("company"))
        wait_until(lambda: len(notifications) > before)
        crm.settle()
        (moved,) = notifications[before:]
        assert (moved["event"], moved["ids"]) == ("update", [ids[0]])
        assert "company_id" in moved["updated_attributes"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moved["timestamp"])


def test_subscriptions_need_https_belong_to_their_key_and_are_at_most_a_hundred(crm: Crm) -> None:
    body = {"target": "http://example.test/", "type": "lead", "event": "new"}
    assert crm.ask("POST", "webhooks", body).status_code == 422
    body["target"] = "https://example.test/"
    subscription_ids = [crm.ask("POST", "webhooks", body).json()["id"] for _ in range(100)]
    assert crm.ask("POST", "webhooks", body).status_code == 422
    assert crm.ask("DELETE", f"webhooks/{subscription_ids[0]}").json() == {"id": subscription_ids[0]}
    assert len(crm.ask("GET", "webhooks").json()) == 99
    other_crm = Crm(crm.sandbox)
    assert other_crm.ask("GET", "webhooks").json() == []
    assert other_crm.ask("DELETE", f"webhooks/{subscription_ids[1]}").status_code == 404


def test_the_limit_is_180_calls_a_minute(crm: Crm) -> None:
    crm.sandbox.control("PUT", "limits", json={"copper_calls_per_minute": 5})
    assert [crm.ask("GET", "account").status_code for _ in range(7)] == [200] * 5 + [429] * 2


def test_oauth_comes_back_as_a_cross_site_post(crm: Crm) -> None:
    page = crm.sandbox.http.get(
        "/copper/oauth/authorize",
        params={"response_type": "code", "client_id": "x", "redirect_uri": "https://p.test/back", "state": "s<1>"},
    ).text
    assert 'method="post" action="https://p.test/back"' in page
    assert "s&lt;1&gt;" in page
    match = re.search(r'name="code" value="([^"]+)"', page)
    assert match
    form = {"grant_type": "authorization_code", "code": match[1]}
    token = crm.sandbox.http.post("/copper/oauth/token", data=form).json()
    assert set(token) == {"access_token", "token_type", "scope"}
    assert crm.sandbox.http.post("/copper/oauth/token", data=form).status_code == 400
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    assert crm.sandbox.http.get(f"{BASE}/users/me", headers=headers).json()["email"] == crm.account["email"]


def test_impossible_actions_are_refused_with_a_reason(crm: Crm) -> None:
    for action, values, reason in (
        ("pay_invoice", {"invoice": "11111111-1111-4111-8111-111111111111"}, "there is no invoice"),
        ("create_record", {"type": "cat", "name": "x"}, "type"),
        ("create_record", {"type": "lead", "name": "x", "emails": ["a@x", "b@x"]}, "one email address"),
        ("move_person", {"person": 1}, "company is missing"),
        ("move_person", {"person": "x", "company": 1}, "person must be a whole number"),
        ("create_record", {"type": "person", "name": "x", "emails": "a@x"}, "emails must be a list in JSON"),
        (
            "create_record",
            {"type": "cat", "name": "x"},
            "type must be one of 'lead', 'person', 'company' or 'opportunity'",
        ),
        ("set_field", {"type": "lead", "id": 1, "field": "tags", "value": 1}, "there is no lead 1"),
        ("delete_record", {"type": "lead", "id": 5}, "there is no lead 5"),
        ("create_record", {"type": "lead", "name": "x", "colour": "red"}, "colour"),
    ):
        response = crm.sandbox.http.post(f"/control/actions/{action}", json=values)
        assert response.status_code == 422
        assert reason in response.json()["error"]
    unknown = crm.sandbox.http.post("/control/actions/pay-invoices")
    message = "There is no action pay-invoices. Did you mean pay-invoice? `patina sandbox simulate` lists all actions."
    assert (unknown.status_code, unknown.json()["error"]) == (404, message)
    assert crm.sandbox.http.post("/control/actions/_record_event").status_code == 404
    foreign = crm.sandbox.http.post(
        "/control/actions/add_account", json={"name": "x"}, headers={"Origin": "http://x.test"}
    )
    assert foreign.status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json"}, 200),
        ({"Content-Type": "application/json; charset=utf-8", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "application/json", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "application/json", "Origin": "null"}, 403),
        ({"Content-Type": "application/json", "Host": "rebound.test"}, 403),
        ({"Content-Type": "application/json", "Host": "["}, 403),
    ],
)
def test_pages_of_other_sites_cannot_use_the_control_api(crm: Crm, headers: dict[str, str], status: int) -> None:
    body = b'{"name": "Acme"}'
    response = crm.sandbox.http.post("/control/actions/add_account", content=body, headers=headers)
    assert response.status_code == status
    assert crm.sandbox.http.get("/control/state", headers={"Host": "rebound.test"}).status_code == 403


def test_search_filters_can_be_made_to_fail(crm: Crm) -> None:
    person, company = crm.make("person"), crm.make("company")
    never = {"minimum_modified_date": 4_000_000_000}
    assert crm.ids("people", **never) == []
    refuse = {"plural": "people", "filter": "minimum_modified_date", "type": "refuse"}
    crm.sandbox.faults(filters=[refuse, {**refuse, "plural": "companies", "type": "ignore"}])
    response = crm.ask("POST", "people/search", never)
    assert (response.status_code, response.json()["message"]) == (422, "Invalid input: minimum_modified_date")
    assert crm.ids("people", page_size=5) == [person]
    assert crm.ids("companies", **never) == [company]
    assert crm.ids("leads", **never) == []


def test_an_endpoint_can_be_made_to_refuse_a_valid_key(crm: Crm) -> None:
    crm.sandbox.faults(api=[{"vendor": "copper", "type": "status", "status": 401, "path": "/leads/search"}])
    assert crm.ask("POST", "leads/search", {}).status_code == 401
    assert crm.ask("GET", "users/me").status_code == 200


def test_the_crm_s_page_exists_for_accounts_of_the_sandbox_only(crm: Crm) -> None:
    account = crm.ask("GET", "account").json()["id"]
    assert crm.sandbox.http.get(f"/copper/companies/{account}/app").status_code == 200
    assert crm.sandbox.http.get(f"/copper/companies/{account + 1}/app").status_code == 404
