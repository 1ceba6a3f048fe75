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


def test_subscriptions_need_https_belong_to_their_key_and_are_at_most_a_hundred(crm: Crm) -> None:
    body = {"target": "http://example.test/", "type": "lead", "event": "new"}
    assert crm.ask("POST", "webhooks", body).status_code == 422
    body["target"] = "https://example.test/"
    made = [crm.ask("POST", "webhooks", body).json()["id"] for _ in range(100)]
    assert crm.ask("POST", "webhooks", body).status_code == 422
    assert crm.ask("PUT", f"webhooks/{made[0]}", {"event": "delete"}).json()["event"] == "delete"
    assert crm.ask("DELETE", f"webhooks/{made[0]}").json()["is_deleted"]
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
        ("move_person", {"person": 1}, "company: Field required"),
        ("delete_record", {"type": "lead", "id": 5}, "there is no lead 5"),
        ("make_record", {"type": "lead", "name": "x", "colour": "red"}, "colour"),
    ):
        answer = crm.sandbox.http.post(f"/control/act/{action}", json=values)
        assert answer.status_code == 422
        assert why in answer.json()["error"]
    assert crm.sandbox.http.post("/control/act/_tell").status_code == 404


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
