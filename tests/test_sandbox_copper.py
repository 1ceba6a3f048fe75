"""The sandbox's Copper, held to the vendor's rules."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from tests.serving import serving, wait_until
from tests.world import Sandbox

BASE = "/copper/developer_api/v1"


class Crm:
    """A client of the sandbox's Copper with an admin's key."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.account = sandbox.act("add_account", name="Acme")
        self.headers = {
            "X-PW-AccessToken": self.account["api_key"],
            "X-PW-Application": "developer_api",
            "X-PW-UserEmail": self.account["email"],
        }

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.sandbox.http.request(method, f"{BASE}/{path}", json=body, headers=self.headers)

    def make(self, kind: str, name: str = "R", **more: Any) -> int:
        made = self.sandbox.act("make_record", type=kind, name=name, account=self.account["account"], **more)
        return int(made["id"])

    def act(self, action: str, **values: Any) -> None:
        self.sandbox.act(action, account=self.account["account"], **values)

    def ids(self, plural: str, **search: Any) -> list[int]:
        answer = self.ask("POST", f"{plural}/search", search)
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()]


@pytest.fixture
def crm(sandbox: Sandbox) -> Crm:
    return Crm(sandbox)


def test_a_key_opens_its_account_only_with_its_owners_address(crm: Crm) -> None:
    assert crm.ask("GET", "account").json()["name"] == "Acme"
    me = crm.ask("GET", "users/me").json()
    assert me["groups"] == [{"id": 1, "name": "Sales"}]
    assert crm.ask("POST", "users/search", {}).json() == [me]
    assert crm.ask("GET", f"users/{me['id']}").json() == me
    crm.headers["X-PW-UserEmail"] = "else@copper.test"
    answer = crm.ask("GET", "account")
    assert answer.status_code == 401
    assert answer.json() == {"success": False, "status": 401, "message": "Invalid Authorization Credentials"}


def test_search_takes_ids_addresses_ranges_order_and_pages(crm: Crm) -> None:
    people = [crm.make("person", f"P{number}", emails=[f"p{number}@x.test"]) for number in range(7)]
    crm.sandbox.control("PUT", "clock", json={"ahead": 100})
    crm.act("change_record", type="person", id=people[3], name="Changed")
    modified = crm.ask("GET", f"people/{people[3]}").json()["date_modified"]

    assert crm.ids("people", ids=[people[1], people[2], 99]) == people[1:3]
    assert crm.ids("people", emails=["P4@X.test"]) == [people[4]]
    assert crm.ids("people", minimum_modified_date=modified) == [people[3]]
    assert crm.ids("people", maximum_created_date=1) == []
    assert crm.ids("people", sort_by="date_created", page_size=3, page_number=2) == people[3:6]
    assert crm.ids("people", sort_by="date_modified", sort_direction="desc")[0] == people[3]
    answer = crm.ask("POST", "people/search", {"page_size": 2})
    assert (len(answer.json()), answer.headers["X-PW-TOTAL"]) == (2, "7")
    for wrong in ({"page_size": 201}, {"ids": list(range(201))}, {"sort_by": "nothing"}):
        assert crm.ask("POST", "people/search", wrong).status_code == 422
    assert crm.ask("POST", "people/search", {"page_number": 501, "page_size": 200}).status_code == 422
    assert crm.ask("POST", "people/fetch_by_email", {"email": "p4@x.test"}).json()["id"] == people[4]


@pytest.fixture
def people(crm: Crm) -> dict[str, int]:
    """A company, three people, a lead and two opportunities, told apart by every field that a search knows."""
    company = crm.make("company", "Acme")
    made = {
        "acme": company,
        "ann": crm.make("person", "Ann Lee", emails=["ann@acme.test"], company=company),
        "bob": crm.make("person", "Bob Moe", emails=["bob@acme.test", "b@home.test"], company=company),
        "cid": crm.make("person", "Cid", emails=["cid@else.test"]),
        "lea": crm.make("lead", "Lea Fay", emails=["lea@x.test"]),
    }
    made["won"] = crm.make("opportunity", "Won deal", company=company, primary_contact=made["ann"])
    made["open"] = crm.make("opportunity", "Open deal")
    crm.act("relate", type="opportunity", id=made["won"], to_type="person", to_id=made["cid"])
    for kind, name, values in (
        ("person", "ann", {"tags": ["VIP", "north"], "phones": ["+64 9 555-0101"], "contact_type_id": 451_492}),
        ("person", "ann", {"address": {"city": "Auckland", "country": "NZ", "postal_code": "1010"}}),
        ("person", "bob", {"address": {"city": "Leeds", "state": "Yorkshire"}, "assignee_id": 7}),
        ("lead", "lea", {"status": "Qualified", "monetary_value": "99.50"}),
        ("company", "acme", {"email_domain": "acme.test"}),
        ("opportunity", "won", {"status": "Won", "stage_id": 987_791, "close_date": "2026-06-30"}),
        ("opportunity", "won", {"monetary_value": 5_000}),
    ):
        for field, value in values.items():
            crm.act("set_field", type=kind, id=made[name], field=field, value=value)
    return made


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
    asked = {
        key: [people.get(one, one) if isinstance(one, str) else one for one in value]
        if isinstance(value, list) and key.endswith("ids")
        else value
        for key, value in search.items()
    }
    assert sorted(crm.ids(plural, **asked)) == sorted(people[name] for name in expected)


@pytest.mark.parametrize(
    ("plural", "body", "named"),
    [
        ("people", {"nonsense": 1}, "nonsense is not played by the sandbox"),
        ("people", {"emails": "ann@acme.test"}, "emails"),
        ("leads", {"emails": ["lea@x.test"]}, "emails"),
        ("leads", {"include_converted_leads": True}, "include_converted_leads"),
        ("companies", {"emails": ["a@x.test"]}, "emails is not played"),
        ("opportunities", {"city": "x"}, "city is not played"),
        ("companies", {"sort_by": "title"}, "sort_by"),
        ("people", {"page_number": 0}, "page_number"),
        ("people", {"custom_fields": [{"custom_field_definition_id": 5, "value": 1}]}, "5 cannot be searched"),
        ("users", {"name": "Sam"}, "name is not played"),
    ],
)
def test_a_search_refuses_by_name_what_it_does_not_play(
    crm: Crm, plural: str, body: dict[str, Any], named: str
) -> None:
    answer = crm.ask("POST", f"{plural}/search", body)
    assert answer.status_code == 422
    assert named in answer.json()["message"]


def test_paths_parameters_and_bodies_that_are_not_played_are_refused_by_name(crm: Crm) -> None:
    person = crm.make("person")
    for method, path, status in (
        ("GET", "tasks/1", 404),
        ("POST", "people", 404),
        ("PUT", f"people/{person}", 405),
        ("DELETE", f"people/{person}", 405),
        ("POST", "cats/search", 404),
        ("GET", "people/x", 404),
    ):
        answer = crm.ask(method, path)
        assert (answer.status_code, f"does not play {method} /{path}" in answer.json()["message"]) == (status, True)
    answer = crm.ask("GET", f"people/{person}?expand=true")
    assert (answer.status_code, "expand" in answer.json()["message"]) == (422, True)
    for body in (b"[]", b"{", b"null", b'"x"', b"\xff"):
        path = f"{BASE}/people/search"
        assert crm.sandbox.http.post(path, content=body, headers=crm.headers).status_code == 422
    assert crm.ask("POST", "people/fetch_by_email", []).status_code == 422
    assert crm.ask("GET", f"people/{9 * 10**30}").status_code == 404
    with_body = crm.sandbox.http.request("GET", f"{BASE}/account", content=b"{}", headers=crm.headers)
    assert (with_body.status_code, with_body.headers["content-type"]) == (400, "text/html; charset=utf-8")


def test_paging_and_sorting_may_stand_in_the_query(crm: Crm, people: dict[str, int]) -> None:
    answer = crm.ask("POST", "people/search?page_size=2&page_number=1&sort_by=last_name&sort_direction=desc", {})
    assert [one["id"] for one in answer.json()] == [people["bob"], people["ann"]]
    assert crm.ids("people", sort_by="city") == [people["cid"], people["ann"], people["bob"]]
    assert crm.ids("people") == [people["ann"], people["bob"], people["cid"]], "people go by first name"
    assert crm.ids("opportunities", sort_by="monetary_value", sort_direction="desc")[0] == people["won"]
    (only,) = crm.ask("POST", "people/search", {"ids": [people["ann"]], "fields": ["name"]}).json()
    assert only == {"id": people["ann"], "name": "Ann Lee"}


def test_custom_fields_are_shown_and_searched_by_range(crm: Crm, people: dict[str, int]) -> None:
    define = {"account": crm.account["account"], "available_on": ["person"]}
    money = crm.sandbox.act("define_field", name="Credit", data_type="Currency", currency="NZD", **define)["field"]
    day = crm.sandbox.act("define_field", name="Since", data_type="Date", **define)["field"]
    crm.act("set_custom_field", type="person", id=people["ann"], field=money, value=120.5)
    crm.act("set_custom_field", type="person", id=people["bob"], field=money, value=80)
    crm.act("set_custom_field", type="person", id=people["bob"], field=day, value="02/28/2026")
    shown = crm.ask("GET", f"people/{people['ann']}").json()["custom_fields"]
    assert shown == [
        {"custom_field_definition_id": money, "value": 120.5},
        {"custom_field_definition_id": day, "value": None},
    ]
    assert [one["name"] for one in crm.ask("GET", "custom_field_definitions").json()] == ["Credit", "Since"]

    def having(field: int, **more: Any) -> list[int]:
        return crm.ids("people", custom_fields=[{"custom_field_definition_id": field, **more}])

    assert having(money, minimum_value=100) == [people["ann"]]
    assert having(money, minimum_value=80, maximum_value=100) == [people["bob"]]
    assert having(day, minimum_value=1_772_236_800) == [people["bob"]]
    assert having(day, minimum_value=1_772_236_801) == []


def test_records_show_every_field_that_copper_shows(crm: Crm, people: dict[str, int]) -> None:
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
        (listed,) = crm.ask("POST", f"{plural}/search", {"ids": [people[name]]}).json()
        assert listed == crm.ask("GET", f"{plural}/{people[name]}").json()


def test_a_subscription_is_shown_as_it_was_made_and_keeps_its_type_and_event(crm: Crm) -> None:
    body = {"target": "https://x.test/", "type": "activity_log", "event": "new", "secret": {"k": "v"}}
    made = crm.ask("POST", "webhooks", {**body, "headers": {"a": "b"}, "custom_field_computed_values": True}).json()
    assert set(made) == {*body, "id", "headers", "custom_field_computed_values", "created_at"}
    crm.sandbox.control("PUT", "clock", json={"ahead": 1_000})
    assert crm.ask("GET", f"webhooks/{made['id']}").json() == made, "made at a fixed time"
    assert crm.ask("GET", "webhooks").json() == [made]
    for key in ("type", "event"):
        answer = crm.ask("PUT", f"webhooks/{made['id']}", {key: "update"})
        assert (answer.status_code, key in answer.json()["message"]) == (422, True)
    changed = crm.ask("PUT", f"webhooks/{made['id']}", {"target": "https://y.test/", "headers": {}}).json()
    assert changed == {**made, "target": "https://y.test/", "headers": {}}
    for target in ("http://x.test/", "https://", "https://[", "ftp://x.test/"):
        assert crm.ask("PUT", f"webhooks/{made['id']}", {"target": target}).status_code == 422
    assert crm.ask("DELETE", f"webhooks/{made['id']}").json() == {"id": made["id"]}
    assert crm.ask("GET", "webhooks").json() == []


def test_records_have_the_fields_of_their_type(crm: Crm) -> None:
    company = crm.make("company")
    person = crm.make("person", emails=["a@x.test"], company=company)
    lead = crm.make("lead", emails=["l@x.test"])
    deal = crm.make("opportunity", company=company, primary_contact=person)

    assert crm.ask("GET", f"leads/{lead}").json()["email"] == {"email": "l@x.test", "category": "work"}
    shown = crm.ask("GET", f"people/{person}").json()
    assert (shown["emails"], shown["company_id"]) == ([{"email": "a@x.test", "category": "work"}], company)
    shown = crm.ask("GET", f"opportunities/{deal}").json()
    assert (shown["company_id"], shown["primary_contact_id"]) == (company, person)
    assert "emails" not in crm.ask("GET", f"companies/{company}").json()
    crm.act("delete_record", type="lead", id=lead)
    assert crm.ask("GET", f"leads/{lead}").status_code == 404


def test_relations_go_both_ways_and_end_with_the_record(crm: Crm) -> None:
    company, other = crm.make("company"), crm.make("company")
    person = crm.make("person", company=company)
    deal = crm.make("opportunity", company=company)
    crm.act("relate", type="opportunity", id=deal, to_type="company", to_id=other)
    crm.act("relate", type="person", id=person, to_type="opportunity", to_id=deal)

    def related(path: str) -> set[tuple[str, int]]:
        return {(one["type"], one["id"]) for one in crm.ask("GET", path).json()}

    assert related(f"opportunities/{deal}/related") == {("company", company), ("company", other), ("person", person)}
    assert related(f"opportunities/{deal}/related/companies") == {("company", company), ("company", other)}
    assert related(f"companies/{other}/related") == {("opportunity", deal)}
    assert related(f"people/{person}/related") == {("company", company), ("opportunity", deal)}
    crm.act("unrelate", type="opportunity", id=deal, to_type="company", to_id=company)
    crm.act("delete_record", type="company", id=other)
    assert related(f"opportunities/{deal}/related") == {("person", person)}


def test_notifications_carry_the_secret_come_once_and_never_tell_of_relations(crm: Crm) -> None:
    got: list[dict[str, Any]] = []

    async def receiver(scope: Any, receive: Any, send: Any) -> None:
        import json

        body = b""
        while True:
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        got.append({**json.loads(body), "headers": headers})
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with serving(receiver) as url:
        for event in ("new", "update", "delete"):
            body = {"target": url, "type": "person", "event": event, "secret": {"k": "v"}, "headers": {"x-mine": "1"}}
            assert crm.ask("POST", "webhooks", body).status_code == 200
        ids = [crm.make("person") for _ in range(35)]
        wait_until(lambda: len({one for notice in got for one in notice["ids"]}) == 35)
        assert max(len(notice["ids"]) for notice in got) <= 30
        assert {one["event"] for one in got} == {"new"}
        assert all(one["k"] == "v" and one["headers"]["x-mine"] == "1" for one in got)
        deal = crm.make("opportunity")
        before = len(got)
        crm.act("relate", type="opportunity", id=deal, to_type="person", to_id=ids[0])
        crm.act("move_person", person=ids[0], company=crm.make("company"))
        wait_until(lambda: len(got) > before)
        wait_until(lambda: crm.sandbox.state()["waiting"] == 0)
        (moved,) = got[before:]
        assert (moved["event"], moved["ids"]) == ("update", [ids[0]])
        assert "company_id" in moved["updated_attributes"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moved["timestamp"])


def test_subscriptions_need_https_belong_to_their_key_and_are_at_most_a_hundred(crm: Crm) -> None:
    body = {"target": "http://example.test/", "type": "lead", "event": "new"}
    assert crm.ask("POST", "webhooks", body).status_code == 422
    body["target"] = "https://example.test/"
    made = [crm.ask("POST", "webhooks", body).json()["id"] for _ in range(100)]
    assert crm.ask("POST", "webhooks", body).status_code == 422
    assert crm.ask("DELETE", f"webhooks/{made[0]}").json() == {"id": made[0]}
    assert len(crm.ask("GET", "webhooks").json()) == 99
    other = Crm(crm.sandbox)
    assert other.ask("GET", "webhooks").json() == []
    assert other.ask("DELETE", f"webhooks/{made[1]}").status_code == 404


def test_180_calls_a_minute_are_the_limit(crm: Crm) -> None:
    crm.sandbox.control("PUT", "limits", json={"copper_minute": 5})
    assert [crm.ask("GET", "account").status_code for _ in range(7)] == [200] * 5 + [429] * 2


def test_oauth_comes_back_as_a_cross_site_post(crm: Crm) -> None:
    page = crm.sandbox.http.get(
        "/copper/oauth/authorize",
        params={"response_type": "code", "client_id": "x", "redirect_uri": "https://p.test/back", "state": "s<1>"},
    ).text
    assert 'method="post" action="https://p.test/back"' in page
    assert "s&lt;1&gt;" in page
    found = re.search(r'name="code" value="([^"]+)"', page)
    assert found
    form = {"grant_type": "authorization_code", "code": found[1]}
    token = crm.sandbox.http.post("/copper/oauth/token", data=form).json()
    assert set(token) == {"access_token", "token_type", "scope"}
    assert crm.sandbox.http.post("/copper/oauth/token", data=form).status_code == 400
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    assert crm.sandbox.http.get(f"{BASE}/users/me", headers=headers).json()["email"] == crm.account["email"]


def test_actions_that_make_no_sense_are_refused_with_the_reason(crm: Crm) -> None:
    for action, values, why in (
        ("pay_invoice", {"invoice": "11111111-1111-4111-8111-111111111111"}, "there is no invoice"),
        ("make_record", {"type": "cat", "name": "x"}, "type"),
        ("make_record", {"type": "lead", "name": "x", "emails": ["a@x", "b@x"]}, "one address"),
        ("move_person", {"person": 1}, "company is missing"),
        ("move_person", {"person": "x", "company": 1}, "person must be a whole number"),
        ("make_record", {"type": "person", "name": "x", "emails": "a@x"}, "emails must be a list in JSON"),
        (
            "make_record",
            {"type": "cat", "name": "x"},
            "type must be one of 'lead', 'person', 'company' or 'opportunity'",
        ),
        ("set_field", {"type": "lead", "id": 1, "field": "tags", "value": 1}, "there is no lead 1"),
        ("delete_record", {"type": "lead", "id": 5}, "there is no lead 5"),
        ("make_record", {"type": "lead", "name": "x", "colour": "red"}, "colour"),
    ):
        answer = crm.sandbox.http.post(f"/control/act/{action}", json=values)
        assert answer.status_code == 422
        assert why in answer.json()["error"]
    unknown = crm.sandbox.http.post("/control/act/pay-invoices")
    said = "There is no action pay-invoices. Did you mean pay-invoice? `patina sandbox act` lists them all."
    assert (unknown.status_code, unknown.json()["error"]) == (404, said)
    assert crm.sandbox.http.post("/control/act/_tell").status_code == 404
    foreign = crm.sandbox.http.post("/control/act/add_account", json={"name": "x"}, headers={"Origin": "http://x.test"})
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
def test_no_page_of_another_site_acts_in_the_sandbox(crm: Crm, headers: dict[str, str], status: int) -> None:
    body = b'{"name": "Acme"}'
    answer = crm.sandbox.http.post("/control/act/add_account", content=body, headers=headers)
    assert answer.status_code == status
    assert crm.sandbox.http.get("/control/state", headers={"Host": "rebound.test"}).status_code == 403


def test_a_search_filter_can_be_made_to_be_refused_or_ignored(crm: Crm) -> None:
    person, company = crm.make("person"), crm.make("company")
    never = {"minimum_modified_date": 4_000_000_000}
    assert crm.ids("people", **never) == []
    refuse = {"plural": "people", "filter": "minimum_modified_date", "kind": "refuse"}
    crm.sandbox.faults(filters=[refuse, {**refuse, "plural": "companies", "kind": "ignore"}])
    answer = crm.ask("POST", "people/search", never)
    assert (answer.status_code, answer.json()["message"]) == (422, "Invalid input: minimum_modified_date")
    assert crm.ids("people", page_size=5) == [person]
    assert crm.ids("companies", **never) == [company]
    assert crm.ids("leads", **never) == []


def test_one_endpoint_can_be_made_to_refuse_a_good_key(crm: Crm) -> None:
    crm.sandbox.faults(api=[{"vendor": "copper", "kind": "status", "status": 401, "path": "/leads/search"}])
    assert crm.ask("POST", "leads/search", {}).status_code == 401
    assert crm.ask("GET", "users/me").status_code == 200
