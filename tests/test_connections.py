"""Whose Xero connections they are, when they end and for whom; who may connect and administer; what is audited."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from runtime.settings import override
from store import access, accounts, audit, browser_sessions, meters
from store.database import transaction
from store.secrets import seal, unseal
from tests import databases
from tests.admin import AdminBrowser
from tests.test_grants import wrong
from tests.test_pages import add_viewer, audited, sign_in
from tests.world import World
from worker import connect, leftovers, overview
from worker.overview import month_start
from worker.steps import Kind
from worker.xero import loopback


@pytest.fixture(autouse=True)
def no_sign_in_was_tried(database: str) -> None:
    """Tries to sign in are counted in the Redis that all tests share."""
    databases.forget_budgets("throttle")


def run_sql(statement: str, **values: object) -> None:
    with transaction() as session:
        session.execute(text(statement), values)


def second_account(world: World, tenants: list[str] | None = None, *, name: str = "Second") -> World:
    """Another account here, connected by the same Xero user: to an organisation of its own, or to `tenants`."""
    other = World(world.sandbox, world.web, xero_user=f"user{world.account}@xero.test")
    if tenants is None:
        return other.open(name=name)
    made = world.sandbox.act("add_account", name=name)
    other.copper, other.tenants = made["account"], tenants
    other.account = connect.connect_copper(made["api_key"], made["email"])
    other.key = connect.make_key(other.account, "test")
    other.authorise(tenants)
    other.backfill()
    return other


def leave(world: World) -> None:
    """Close the account, and have the vendors told."""
    connect.disconnect(world.account, who="Ada Admin")
    while leftovers.clean_up():
        pass


def grant_of(world: World, tenants: list[str]) -> int:
    """A grant that was given but from which nothing is chosen yet."""
    world.sandbox.control("PUT", "app", json={"consent_to": tenants, "auto_consent": True})
    return connect.keep_grant(world.account, loopback.authorise(0, auto=True, say=print), who="Ada Admin")


def is_working(world: World) -> bool:
    """Whether a change in Xero reaches the account's mirror, by a catch-up that asks Xero."""
    world.catch_up()
    return wrong(world) == ()


# Xero's connections belong to a user


def test_only_the_organisations_of_this_authorisation_are_offered(world: World) -> None:
    second = second_account(world)
    offers = connect.offered(second.account, grant_of(second, second.tenants))
    assert [str(one.tenant_id) for one in offers] == second.tenants
    assert offers[0].is_selected
    assert not offers[0].is_elsewhere


def test_an_organisation_of_another_account_is_marked_and_not_selected(world: World) -> None:
    second = second_account(world)
    both = [*world.tenants, *second.tenants]
    offers = {str(one.tenant_id): one for one in connect.offered(second.account, grant_of(second, both))}
    assert set(offers) == set(both)
    shared, own = offers[world.tenants[0]], offers[second.tenants[0]]
    assert (shared.is_elsewhere, shared.is_selected) == (True, False)
    assert (own.is_elsewhere, own.is_selected) == (False, True)

    page = sign_in(second).open("/connect/organisations").text
    assert page.count("is also connected by another Copper account here") == 1
    assert f'value="{world.tenants[0]}">' in page
    assert f'value="{second.tenants[0]}" checked>' in page
    assert "First" not in page


def test_a_token_that_says_nothing_of_its_authorisation_offers_what_the_user_has(world: World) -> None:
    second = second_account(world)
    grant = grant_of(second, second.tenants)
    run_sql("UPDATE xero_grant SET auth_event_id = NULL WHERE id = :id", id=grant)
    offers = {str(one.tenant_id): one for one in connect.offered(second.account, grant)}
    assert {tenant: one.is_selected for tenant, one in offers.items()} == {
        world.tenants[0]: False,
        second.tenants[0]: True,
    }


def test_an_authorisation_that_lists_nothing_of_its_own_selects_the_accounts_own_alone(world: World) -> None:
    second = second_account(world)
    grant = grant_of(second, second.tenants)
    run_sql("UPDATE xero_grant SET auth_event_id = '6f9e8a5e-95c8-4b8e-9f4c-0a3f1d2b7c11' WHERE id = :id", id=grant)
    offers = {str(one.tenant_id): one.is_selected for one in connect.offered(second.account, grant)}
    assert offers == {world.tenants[0]: False, second.tenants[0]: True}
    chosen = connect.choose_organisations(second.account, grant, None, who="Ada Admin")
    assert [str(one.tenant_id) for one in chosen] == second.tenants


def test_a_closed_account_leaves_another_of_the_same_xero_user_its_connections(world: World) -> None:
    second = second_account(world)
    connections = world.sandbox.calls("DELETE /xero/connections")
    leave(second)
    assert world.sandbox.calls("/connect/revocation") == 0
    assert world.sandbox.calls("DELETE /xero/connections") == connections + 1, "its own one ends"
    assert is_working(world)
    leave(world)
    assert world.sandbox.calls("/connect/revocation") == 1, "the last one of the user ends everything"


def test_a_connection_that_two_accounts_share_survives_when_one_of_them_leaves(world: World) -> None:
    second = second_account(world, world.tenants)
    assert is_working(second)
    leave(world)
    assert world.sandbox.calls("DELETE /xero/connections") == world.sandbox.calls("/connect/revocation") == 0
    person, contact = second.person("ann@acme.test"), second.contact("Ann", "ann@acme.test")
    invoice = second.invoice(contact)
    second.settle()
    assert second.shown("people", person) == [invoice.number]
    leave(second)
    assert world.sandbox.calls("/connect/revocation") == 1


@pytest.mark.parametrize("organisations", [1, 2])
def test_a_shared_organisation_that_one_account_drops_goes_on_for_the_other(
    unconnected: World, organisations: int
) -> None:
    world = unconnected.open(organisations=organisations)
    second = second_account(world, world.tenants[:1])
    with transaction() as session:
        dropped = accounts.organisations(session, world.account)[0].id
    connect.drop_organisation(world.account, dropped, who="Ada Admin")
    while leftovers.clean_up():
        pass
    assert is_working(second)
    assert world.sandbox.calls("DELETE /xero/connections") == world.sandbox.calls("/connect/revocation") == 0


def test_of_a_user_who_is_not_known_single_connections_end_and_nothing_is_revoked(world: World) -> None:
    second = second_account(world)
    run_sql("UPDATE xero_grant SET xero_user_id = NULL")
    leave(second)
    assert world.sandbox.calls("/connect/revocation") == 0
    assert world.sandbox.calls("DELETE /xero/connections") == 1
    assert is_working(world)


def test_an_account_of_another_xero_user_does_not_keep_a_revocation_from_being_made(world: World) -> None:
    second = second_account(world)
    run_sql("UPDATE xero_grant SET xero_user_id = 'somebody-else' WHERE account_id = :account", account=world.account)
    leave(second)
    assert world.sandbox.calls("/connect/revocation") == 1


def test_a_connection_ends_although_the_token_is_an_hour_old_by_then(world: World) -> None:
    second = second_account(world)
    connect.disconnect(second.account, who="Ada Admin")
    world.sandbox.faults(api=[{"vendor": "xero", "kind": "status", "status": 500, "path": "/connections"}])
    leftovers.clean_up()
    failed = world.sandbox.calls("DELETE /xero/connections")
    world.sandbox.control("PUT", "clock", json={"ahead": 3_600})
    with transaction() as session:
        row = session.execute(text("SELECT id, sealed FROM leftover WHERE kind = 'xero.revoke'")).one()
        values = unseal(row.sealed)
        values["token"]["expires_at"] = 1
        session.execute(
            text("UPDATE leftover SET sealed = :sealed, not_before = now() WHERE id = :id"),
            {"sealed": seal(values), "id": row.id},
        )
    world.sandbox.faults()
    while leftovers.clean_up():
        pass
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM leftover")).scalar_one() == 0
    assert world.sandbox.calls("DELETE /xero/connections") == failed + 1
    assert is_working(world)


def test_an_organisation_that_is_connected_again_while_it_is_erased_stays(world: World) -> None:
    contact, person = world.contact("Ann", "ann@acme.test"), world.person("ann@acme.test")
    invoice = world.invoice(contact)
    world.settle()
    with transaction() as session:
        dropped = accounts.organisations(session, world.account)[0].id
    connect.drop_organisation(world.account, dropped, who="Ada Admin")
    world.authorise(world.tenants)
    connect.backfill(world.account)
    while leftovers.clean_up():
        pass
    world.run(Kind.BACKFILL)
    assert is_working(world)
    assert world.shown("people", person) == [invoice.number]
    world.check()


# Names


def test_two_organisations_of_one_name_are_told_apart(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    run_sql("UPDATE xero_organisation SET name = 'Acme Ltd'")
    with transaction() as session:
        first, second = accounts.organisations(session, world.account)
        accounts.mark_organisation(session, world.account, second.id, "reconnect")
        assert accounts.lost_organisations(session, world.account) == {second.id: "Acme Ltd"}
    (account,) = overview.everything()
    assert [source.organisation_id for source in account.sources if source.is_lost] == [second.id]
    assert wrong(world)[0].startswith(f"Acme Ltd (organisation {second.id}) is disconnected")
    admin = sign_in(world)
    settings, status = admin.open("/settings").text, admin.open("/status").text
    assert settings.count("Disconnected in Xero") == 1
    assert status.count("Reconnect required") == 1
    for page in (settings, status):
        assert f"Acme Ltd (organisation {first.id})" in page
        assert f"Acme Ltd (organisation {second.id})" in page


# Who may connect and administer


@pytest.mark.parametrize(
    ("key", "email"),
    [
        ("", "ada@acme.test"),
        ("key", "no address"),
        ("é", "ada@acme.test"),
        ("k\u2028ey", "ada@acme.test"),
        ("a\tb", "ada@acme.test"),
        ("k" * 501, "ada@acme.test"),
        ("key", f"{'a' * 320}@acme.test"),
        ("wrong", "ada@acme.test"),
    ],
)
def test_both_forms_that_take_a_copper_key_refuse_the_same(world: World, key: str, email: str) -> None:
    admin = sign_in(world)
    calls = world.sandbox.calls("/copper/")
    admin.open("/settings")
    asked = world.sandbox.calls("/copper/") - calls
    replaced = admin.send("/copper/key", key=key, email=email)
    stranger = AdminBrowser(world.web)
    signed_in = stranger.sign_in(key, email)
    for page in (replaced, signed_in):
        assert page.status_code == 422
        assert "accept this API key and email address." in page.text
    assert "The old key is still in use." in replaced.text
    assert wrong(world) == ()
    if key != "wrong":
        assert world.sandbox.calls("/copper/") - calls <= 2 * asked, "such a key is not sent to Copper"


def test_a_key_whose_webhooks_cannot_be_set_up_is_said_to_be_saved(world: World) -> None:
    admin = sign_in(world)
    second = world.sandbox.act("add_user", account=world.copper, name="Second Admin", admin=True)
    admin.open("/settings")
    world.sandbox.faults(api=[{"vendor": "copper", "kind": "status", "status": 503, "path": "webhooks"}])
    page = admin.send("/copper/key", key=second["api_key"], email=second["email"])
    assert page.status_code == 503
    assert "The new key is saved" in page.text
    assert "still in use" not in page.text
    assert "Nothing was changed" not in page.text
    with transaction() as session:
        assert accounts.copper_access(session, world.account).api_key == second["api_key"]


def test_only_a_user_of_the_copper_account_becomes_an_admin(world: World) -> None:
    viewer = add_viewer(world)
    admin = sign_in(world)
    page = admin.open("/settings")
    assert f'<option value="{viewer["user"]}">Vic Viewer ({viewer["user"]})</option>' in page.text

    for number in ("999999", "1 or 1", "", "-1"):
        refused = admin.send("/admins", user=number)
        assert refused.status_code == 422
        assert "Copper has no user with this ID in your account." in refused.text
    world.sandbox.faults(api=[{"vendor": "copper", "kind": "status", "status": 503, "path": "/users"}])
    unanswered = admin.send("/admins", user=str(viewer["user"]))
    assert (unanswered.status_code, "Nobody was added." in unanswered.text) == (503, True)
    assert '<input id="user"' in unanswered.text, "without Copper's answer there is no list to choose from"
    with transaction() as session:
        assert access.named_admins(session, world.account) == {}

    world.sandbox.faults()
    admin.open("/settings")
    admin.send("/admins", user=str(viewer["user"]), name="Somebody else")
    with transaction() as session:
        assert access.named_admins(session, world.account) == {viewer["user"]: "Vic Viewer"}


# Audit


def test_nothing_is_changed_that_could_not_be_audited(world: World) -> None:
    viewer = add_viewer(world)
    other, admin = sign_in(world), sign_in(world)
    assert other.page is not None
    invoice = world.invoice("ann@acme.test")
    world.settle()
    run_sql("UPDATE inbox SET state = 'failed'")
    admin.open("/settings")
    csrf = admin.csrf()
    grant = grant_of(world, world.tenants)
    with transaction() as session:
        organisation = accounts.organisations(session, world.account)[0].id
        key = access.keys(session, world.account)[0].id
        ended = browser_sessions.open_sessions(session, world.account, limit=10)[-1].id
    state = world.sandbox.state()["accounts"][0]
    before = snapshot()
    run_sql("ALTER TABLE audit ADD CONSTRAINT full_up CHECK (false) NOT VALID")

    sends = {
        "/connect": {"key": state["api_key"], "email": state["email"]},
        "/settings": {"shown": "9", "record_type": "person", "visible": "everyone"},
        f"/organisations/{organisation}/drop": {},
        "/copper/key": {"key": state["api_key"], "email": state["email"]},
        "/admins": {"user": str(viewer["user"])},
        "/keys": {"name": "new", "scope": "read"},
        f"/keys/{key}/revoke": {},
        f"/sessions/{ended}/end": {},
        "/sessions/end-others": {},
        "/signout": {},
        "/events/replay": {"event": "all"},
        "/events/dismiss": {"event": "all"},
        "/disconnect": {"name": "Acme Sales"},
        "/connect/organisations": {"tenant": world.tenants[0]},
    }
    for path, form in sends.items():
        answer = admin.http.post(path, data={"csrf": csrf, **form}, headers={"Connection": "close"})
        assert answer.status_code == 500, path
        assert snapshot() == before, path
    with pytest.raises(IntegrityError):
        connect.keep_grant(world.account, {"expires_at": 1}, who="Ada Admin")
    with pytest.raises(IntegrityError):
        connect.choose_organisations(world.account, grant, None, who="Ada Admin")
    assert snapshot() == before
    assert invoice.number


def snapshot() -> dict[str, list[object]]:
    """Everything that an admin can change."""
    tables = {
        "account": "id, shown",
        "web_session": "id, token_hash",
        "api_key": "id, revoked_at",
        "named_admin": "user_id",
        "xero_organisation": "id, status, grant_id",
        "xero_grant": "id, status",
        "copper_credential": "account_id, webhook_token_hash",
        "inbox": "id, state",
        "leftover": "id",
    }
    with transaction() as session:
        return {
            table: list(session.execute(text(f"SELECT {columns} FROM {table} ORDER BY 1")).all())
            for table, columns in tables.items()
        }


def test_an_authorisation_at_xero_is_audited(world: World) -> None:
    assert audited().count("xero.authorised") == 1
    with transaction() as session:
        entries = audit.latest(session, world.account)
    assert "xero.authorised" in {entry.action for entry in entries}


# Copper's 180 a minute


@pytest.mark.timeout(120)
def test_connecting_and_a_burst_together_stay_within_coppers_minute(unconnected: World) -> None:
    sandbox = unconnected.sandbox
    override({"COPPER_MINUTE_LIMIT": "180"})
    sandbox.control("PUT", "limits", json={"copper_minute": 180, "minute": 10_000, "day": 1_000_000})
    world = unconnected.open()
    state = sandbox.state()["accounts"][0]
    deals = [world.opportunity() for _ in range(200)]
    for _ in range(3):
        assert connect.connect_copper(state["api_key"], state["email"]) == world.account
        connect.identify(state["api_key"], state["email"])
    world.settle_without_end()
    assert deals
    told = sandbox.state()
    assert told["refused"] == 0
    assert 90 < told["busiest_minute"][state["api_key"]] <= 180


def test_calls_made_before_the_account_was_known_are_counted_on_its_budget(unconnected: World) -> None:
    world = unconnected.open()
    assert copper_calls(world) == world.sandbox.calls("/copper/")
    state = world.sandbox.state()["accounts"][0]
    connect.identify(state["api_key"], state["email"])
    assert copper_calls(world) == world.sandbox.calls("/copper/")


def copper_calls(world: World) -> int:
    with transaction() as session:
        found = meters.since(session, month_start(), world.account)
    return sum(one.calls for one in found if not one.organisation_id)
