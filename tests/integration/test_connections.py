"""Xero connections of several accounts and users, who may connect and administer, and the audit log."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from runtime.settings import override_settings
from services import access, account_status, connect
from services.account_status import month_start
from store.accounts import admins, api_keys, audit, browser_sessions, copper_credentials, xero_organisations
from store.db.crypto import decrypt, encrypt
from store.db.database import transaction
from store.db.enums import OrganisationStatus
from store.sync import api_usage
from tests.integration.test_connect_pages import add_viewer, audit_actions
from tests.integration.test_reconnecting import findings_of
from tests.support import databases
from tests.support.admin import AdminBrowser, sign_in
from tests.support.world import World
from worker.sync import cleanup_tasks
from worker.vendors.sync_types import RunKind
from worker.vendors.xero import cli_oauth


@pytest.fixture(autouse=True)
def no_sign_in_was_tried(database: str) -> None:
    """Reset the sign-in limits in the Redis that all tests share."""
    databases.clear_budgets("throttle")


def run_sql(statement: str, **values: object) -> None:
    with transaction() as session:
        session.execute(text(statement), values)


def second_account(world: World, tenants: list[str] | None = None, *, name: str = "Second") -> World:
    """Another account, connected by the same Xero user to its own organisation, or to `tenants`."""
    second = World(world.sandbox, world.web, xero_user=f"user{world.account}@xero.test")
    if tenants is None:
        return second.open(name=name)
    copper_account = world.sandbox.simulate("add_account", name=name)
    second.copper, second.tenants = copper_account["account"], tenants
    second.account = connect.connect_copper(copper_account["api_key"], copper_account["email"])
    second.key = access.create_key(second.account, "test")
    second.authorise(tenants)
    second.backfill()
    return second


def leave(world: World) -> None:
    """Close the account, and run the clean-up tasks at the vendors."""
    connect.disconnect(world.account, actor="Ada Admin")
    while cleanup_tasks.run_due():
        pass


def grant_of(world: World, tenants: list[str]) -> int:
    """A grant whose organisations are not selected yet."""
    world.sandbox.control("PUT", "app", json={"consent_tenant_ids": tenants, "auto_consent": True})
    return connect.save_grant(world.account, cli_oauth.authorise(0, auto=True, echo=print), actor="Ada Admin")


def is_working(world: World) -> bool:
    """Whether a change in Xero reaches the account's mirror by a catch-up."""
    world.catch_up()
    return findings_of(world) == ()


# Xero's connections belong to a user


def test_only_organisations_of_this_authorisation_are_offered(world: World) -> None:
    second = second_account(world)
    offers = connect.list_authorised_organisations(second.account, grant_of(second, second.tenants))
    assert [str(offer.tenant_id) for offer in offers] == second.tenants
    assert offers[0].is_selected
    assert not offers[0].is_connected_elsewhere


def test_an_organisation_of_another_account_is_marked_and_not_selected(world: World) -> None:
    second = second_account(world)
    tenants = [*world.tenants, *second.tenants]
    offers = {
        str(organisation.tenant_id): organisation
        for organisation in connect.list_authorised_organisations(second.account, grant_of(second, tenants))
    }
    assert set(offers) == set(tenants)
    shared, own = offers[world.tenants[0]], offers[second.tenants[0]]
    assert (shared.is_connected_elsewhere, shared.is_selected) == (True, False)
    assert (own.is_connected_elsewhere, own.is_selected) == (False, True)

    page = sign_in(second).open("/connect/organisations").text
    assert page.count("is also connected by another Copper account here") == 1
    assert f'value="{world.tenants[0]}">' in page
    assert f'value="{second.tenants[0]}" checked>' in page
    assert "First" not in page


def test_a_token_without_an_authorisation_id_offers_all_connections_of_the_user(world: World) -> None:
    second = second_account(world)
    grant = grant_of(second, second.tenants)
    run_sql("UPDATE xero_grant SET auth_event_id = NULL WHERE id = :id", id=grant)
    offers = {
        str(organisation.tenant_id): organisation
        for organisation in connect.list_authorised_organisations(second.account, grant)
    }
    assert {tenant: offer.is_selected for tenant, offer in offers.items()} == {
        world.tenants[0]: False,
        second.tenants[0]: True,
    }


def test_an_authorisation_without_connections_of_its_own_selects_only_the_accounts_organisations(world: World) -> None:
    second = second_account(world)
    grant = grant_of(second, second.tenants)
    run_sql("UPDATE xero_grant SET auth_event_id = '6f9e8a5e-95c8-4b8e-9f4c-0a3f1d2b7c11' WHERE id = :id", id=grant)
    offers = {
        str(organisation.tenant_id): organisation.is_selected
        for organisation in connect.list_authorised_organisations(second.account, grant)
    }
    assert offers == {world.tenants[0]: False, second.tenants[0]: True}
    connected = connect.connect_organisations(second.account, grant, None, actor="Ada Admin")
    assert [str(organisation.tenant_id) for organisation in connected] == second.tenants


def test_closing_an_account_keeps_the_connections_of_another_account_of_the_same_xero_user(world: World) -> None:
    second = second_account(world)
    connections = world.sandbox.calls("DELETE /xero/connections")
    leave(second)
    assert world.sandbox.calls("/connect/revocation") == 0
    assert world.sandbox.calls("DELETE /xero/connections") == connections + 1, "its own one ends"
    assert is_working(world)
    leave(world)
    assert world.sandbox.calls("/connect/revocation") == 1, "the last one of the user ends everything"


def test_a_connection_shared_by_two_accounts_survives_the_closing_of_one(world: World) -> None:
    second = second_account(world, world.tenants)
    assert is_working(second)
    leave(world)
    assert world.sandbox.calls("DELETE /xero/connections") == world.sandbox.calls("/connect/revocation") == 0
    person, contact = second.person("ann@acme.test"), second.contact("Ann", "ann@acme.test")
    invoice = second.invoice(contact)
    second.settle()
    assert second.invoice_numbers("people", person) == [invoice.number]
    leave(second)
    assert world.sandbox.calls("/connect/revocation") == 1


@pytest.mark.parametrize("organisations", [1, 2])
def test_a_shared_organisation_removed_by_one_account_stays_connected_for_the_other(
    unconnected: World, organisations: int
) -> None:
    world = unconnected.open(organisations=organisations)
    second = second_account(world, world.tenants[:1])
    with transaction() as session:
        dropped = xero_organisations.list_connected(session, world.account)[0].id
    connect.remove_organisation(world.account, dropped, actor="Ada Admin")
    while cleanup_tasks.run_due():
        pass
    assert is_working(second)
    assert world.sandbox.calls("DELETE /xero/connections") == world.sandbox.calls("/connect/revocation") == 0


def test_for_an_unknown_xero_user_single_connections_are_deleted_and_nothing_is_revoked(world: World) -> None:
    second = second_account(world)
    run_sql("UPDATE xero_grant SET xero_user_id = NULL")
    leave(second)
    assert world.sandbox.calls("/connect/revocation") == 0
    assert world.sandbox.calls("DELETE /xero/connections") == 1
    assert is_working(world)


def test_an_account_of_another_xero_user_does_not_prevent_a_revocation(world: World) -> None:
    second = second_account(world)
    run_sql("UPDATE xero_grant SET xero_user_id = 'somebody-else' WHERE account_id = :account", account=world.account)
    leave(second)
    assert world.sandbox.calls("/connect/revocation") == 1


def test_a_connection_is_deleted_even_if_the_token_has_expired(world: World) -> None:
    second = second_account(world)
    connect.disconnect(second.account, actor="Ada Admin")
    world.sandbox.faults(api=[{"vendor": "xero", "type": "status", "status": 500, "path": "/connections"}])
    cleanup_tasks.run_due()
    failed = world.sandbox.calls("DELETE /xero/connections")
    world.sandbox.control("PUT", "clock", json={"offset_seconds": 3_600})
    with transaction() as session:
        row = session.execute(
            text("SELECT id, encrypted_payload FROM cleanup_task WHERE task_type = 'xero.revoke'")
        ).one()
        values = decrypt(row.encrypted_payload)
        values["token"]["expires_at"] = 1
        session.execute(
            text("UPDATE cleanup_task SET encrypted_payload = :encrypted_payload, not_before = now() WHERE id = :id"),
            {"encrypted_payload": encrypt(values), "id": row.id},
        )
    world.sandbox.faults()
    while cleanup_tasks.run_due():
        pass
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM cleanup_task")).scalar_one() == 0
    assert world.sandbox.calls("DELETE /xero/connections") == failed + 1
    assert is_working(world)


def test_an_organisation_reconnected_during_its_erasure_stays(world: World) -> None:
    contact, person = world.contact("Ann", "ann@acme.test"), world.person("ann@acme.test")
    invoice = world.invoice(contact)
    world.settle()
    with transaction() as session:
        dropped = xero_organisations.list_connected(session, world.account)[0].id
    connect.remove_organisation(world.account, dropped, actor="Ada Admin")
    world.authorise(world.tenants)
    connect.start_backfills(world.account)
    while cleanup_tasks.run_due():
        pass
    world.run(RunKind.BACKFILL)
    assert is_working(world)
    assert world.invoice_numbers("people", person) == [invoice.number]
    world.check()


def test_only_an_organisation_that_was_removed_counts_as_never_synced_when_it_is_connected_again(world: World) -> None:
    columns = [
        f"{resource}_synced_through"
        for resource in ("contacts", "invoices", "credit_notes", "prepayments", "overpayments")
    ]

    def watermarks() -> list[int]:
        with transaction() as session:
            return list(
                session.execute(text(f"SELECT num_nonnulls({', '.join(columns)}) FROM xero_organisation")).scalars()
            )

    run_sql(f"UPDATE xero_organisation SET {', '.join(f'{column} = now()' for column in columns)}")
    world.authorise(world.tenants)
    assert watermarks() == [5]
    with transaction() as session:
        (organisation,) = xero_organisations.list_connected(session, world.account)
    assert None not in organisation.credits_synced_through.values()
    connect.remove_organisation(world.account, organisation.id, actor="Ada Admin")
    world.authorise(world.tenants)
    assert watermarks() == [0]


# Names


def test_two_organisations_with_the_same_name_can_be_distinguished(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    run_sql("UPDATE xero_organisation SET name = 'Acme Ltd'")
    with transaction() as session:
        first, second = xero_organisations.list_connected(session, world.account)
        xero_organisations.set_status(session, world.account, second.id, OrganisationStatus.NEEDS_REAUTH)
        assert xero_organisations.list_needing_reauth(session, world.account) == {second.id: "Acme Ltd"}
    (account,) = account_status.list_all()
    assert [source.organisation_id for source in account.sources if source.needs_reauth] == [second.id]
    assert findings_of(world)[0].startswith(f"Acme Ltd (organisation {second.id}) is disconnected")
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
def test_both_forms_for_a_copper_key_have_the_same_validation(world: World, key: str, email: str) -> None:
    admin = sign_in(world)
    calls = world.sandbox.calls("/copper/")
    admin.open("/settings")
    copper_calls_made = world.sandbox.calls("/copper/") - calls
    replaced = admin.send("/copper/key", key=key, email=email)
    unrelated = AdminBrowser(world.web)
    signed_in = unrelated.sign_in(key, email)
    for page in (replaced, signed_in):
        assert page.status_code == 422
        assert "accept this API key and email address." in page.text
    assert "The old key is still in use." in replaced.text
    assert findings_of(world) == ()
    if key != "wrong":
        assert world.sandbox.calls("/copper/") - calls <= 2 * copper_calls_made, "such a key is not sent to Copper"


def test_the_page_says_that_a_key_was_saved_even_if_webhooks_failed(world: World) -> None:
    admin = sign_in(world)
    second = world.sandbox.simulate("add_user", account=world.copper, name="Second Admin", admin=True)
    admin.open("/settings")
    world.sandbox.faults(api=[{"vendor": "copper", "type": "status", "status": 503, "path": "webhooks"}])
    page = admin.send("/copper/key", key=second["api_key"], email=second["email"])
    assert page.status_code == 503
    assert "The new key is saved" in page.text
    assert "still in use" not in page.text
    assert "Nothing was changed" not in page.text
    with transaction() as session:
        assert copper_credentials.get(session, world.account).api_key == second["api_key"]


def test_only_a_user_of_the_copper_account_becomes_an_admin(world: World) -> None:
    viewer = add_viewer(world)
    admin = sign_in(world)
    page = admin.open("/settings")
    assert f'<option value="{viewer["user"]}">Vic Viewer ({viewer["user"]})</option>' in page.text

    for number in ("999999", "1 or 1", "", "-1"):
        refused = admin.send("/admins", user=number)
        assert refused.status_code == 422
        assert "Copper has no user with this ID in your account." in refused.text
    world.sandbox.faults(api=[{"vendor": "copper", "type": "status", "status": 503, "path": "/users"}])
    unanswered = admin.send("/admins", user=str(viewer["user"]))
    assert (unanswered.status_code, "Nobody was added." in unanswered.text) == (503, True)
    assert '<input id="user"' in unanswered.text, "without Copper's answer there is no list to choose from"
    with transaction() as session:
        assert admins.list_names(session, world.account) == {}

    world.sandbox.faults()
    admin.open("/settings")
    admin.send("/admins", user=str(viewer["user"]), name="Somebody else")
    with transaction() as session:
        assert admins.list_names(session, world.account) == {viewer["user"]: "Vic Viewer"}


# Audit


def test_a_change_that_cannot_be_audited_is_rolled_back(world: World) -> None:
    viewer = add_viewer(world)
    other_browser, admin = sign_in(world), sign_in(world)
    assert other_browser.page is not None
    invoice = world.invoice("ann@acme.test")
    world.settle()
    run_sql("UPDATE inbox SET state = 'failed'")
    admin.open("/settings")
    csrf = admin.csrf()
    grant = grant_of(world, world.tenants)
    with transaction() as session:
        organisation = xero_organisations.list_connected(session, world.account)[0].id
        key = api_keys.list_active(session, world.account)[0].id
        session_id = browser_sessions.list_open(session, world.account, limit=10)[-1].id
    state = world.sandbox.state()["accounts"][0]
    before = snapshot()
    run_sql("ALTER TABLE audit_log ADD CONSTRAINT full_up CHECK (false) NOT VALID")

    sends = {
        "/connect": {"key": state["api_key"], "email": state["email"]},
        "/settings": {"invoice_limit": "9", "record_type": "person", "visible": "everyone"},
        f"/organisations/{organisation}/remove": {},
        "/copper/key": {"key": state["api_key"], "email": state["email"]},
        "/admins": {"user": str(viewer["user"])},
        "/keys": {"name": "new", "scope": "read"},
        f"/keys/{key}/revoke": {},
        f"/sessions/{session_id}/end": {},
        "/sessions/end-others": {},
        "/signout": {},
        "/events/replay": {"event": "all"},
        "/events/dismiss": {"event": "all"},
        "/disconnect": {"name": "Acme Sales"},
        "/connect/organisations": {"tenant": world.tenants[0]},
    }
    for path, form in sends.items():
        response = admin.http.post(path, data={"csrf": csrf, **form}, headers={"Connection": "close"})
        assert response.status_code == 500, path
        assert snapshot() == before, path
    with pytest.raises(IntegrityError):
        connect.save_grant(world.account, {"expires_at": 1}, actor="Ada Admin")
    with pytest.raises(IntegrityError):
        connect.connect_organisations(world.account, grant, None, actor="Ada Admin")
    assert snapshot() == before
    assert invoice.number


def snapshot() -> dict[str, list[object]]:
    """Every action of an admin."""
    tables = {
        "account": "id, invoice_limit",
        "browser_session": "id, token_hash",
        "api_key": "id, revoked_at",
        "named_admin": "user_id",
        "xero_organisation": "id, status, grant_id",
        "xero_grant": "id, status",
        "copper_credential": "account_id, webhook_token_hash",
        "inbox": "id, state",
        "cleanup_task": "id",
    }
    with transaction() as session:
        return {
            table: list(session.execute(text(f"SELECT {columns} FROM {table} ORDER BY 1")).all())
            for table, columns in tables.items()
        }


def test_an_authorisation_at_xero_is_audited(world: World) -> None:
    assert audit_actions().count("xero.authorised") == 1
    with transaction() as session:
        entries = audit.latest(session, world.account)
    assert "xero.authorised" in {entry.action for entry in entries}


# Copper's rate limit


def test_connecting_and_a_burst_together_stay_within_coppers_limit_per_minute(unconnected: World) -> None:
    sandbox = unconnected.sandbox
    override_settings({"COPPER_CALLS_PER_MINUTE": "180"})
    sandbox.control(
        "PUT", "limits", json={"copper_calls_per_minute": 180, "calls_per_minute": 10_000, "calls_per_day": 1_000_000}
    )
    world = unconnected.open()
    state = sandbox.state()["accounts"][0]
    deals = [world.opportunity() for _ in range(200)]
    for _ in range(3):
        assert connect.connect_copper(state["api_key"], state["email"]) == world.account
        connect.identify(state["api_key"], state["email"])
    world.settle_once()
    assert deals
    state_after = sandbox.state()
    assert state_after["rate_limited"] == 0
    assert 90 < state_after["max_calls_per_minute"][state["api_key"]] <= 180


def test_calls_made_before_the_account_was_known_are_counted_on_its_budget(unconnected: World) -> None:
    world = unconnected.open()
    assert copper_calls(world) == world.sandbox.calls("/copper/")
    state = world.sandbox.state()["accounts"][0]
    connect.identify(state["api_key"], state["email"])
    assert copper_calls(world) == world.sandbox.calls("/copper/")


def copper_calls(world: World) -> int:
    with transaction() as session:
        usages = api_usage.usage_since(session, month_start(), world.account)
    return sum(usage.calls for usage in usages if not usage.organisation_id)
