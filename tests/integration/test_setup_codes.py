"""Only listed Copper accounts and holders of a set-up code can connect."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import text

from runtime.settings import SettingsError, override_settings, settings
from services import connect
from store.accounts import invitations
from store.accounts.audit import COMMAND_LINE
from store.accounts.invitations import InvitationState
from store.db.database import transaction
from tests.integration.test_connect_pages import audit_actions, count
from tests.support.admin import AdminBrowser
from tests.support.commands import patina
from tests.support.databases import clear_budgets
from tests.support.world import Sandbox, World

Account = dict[str, str]


@pytest.fixture(autouse=True)
def by_code_alone(sandbox: Sandbox, database: str) -> None:
    """No account is listed, and no attempts are counted."""
    clear_budgets("throttle")
    override_settings({"COPPER_ACCOUNTS": ""})


def open_account(sandbox: Sandbox, name: str = "Acme Sales") -> Account:
    copper_account = sandbox.simulate("add_account", name=name)
    return {"key": copper_account["api_key"], "email": copper_account["email"], "id": str(copper_account["account"])}


def invite(days: int = 7) -> str:
    with transaction() as session:
        return invitations.create(session, "for Ann", days)[0]


def connect_with(web: httpx.Client, account: Account, code: str = "") -> httpx.Response:
    browser = AdminBrowser(web)
    browser.open("/connect")
    return browser.send("/connect", key=account["key"], email=account["email"], code=code)


def problem(page: httpx.Response) -> str:
    """The error at the field of the set-up code in a refused form."""
    assert page.status_code == 422
    match = re.search(r'id="code-error">([^<]*)<', page.text)
    assert match, page.text
    return match[1].replace("&#39;", "'")


def test_an_account_without_a_set_up_code_is_not_connected(web: httpx.Client, sandbox: Sandbox) -> None:
    account = open_account(sandbox)
    page = connect_with(web, account)

    assert problem(page).startswith("This Copper account isn't connected yet. Enter a set-up code")
    assert f'value="{account["email"]}"' in page.text, "what was typed stays"
    assert account["key"] not in page.text, "but for the key"
    assert count("account") == count("browser_session") == 0
    assert sandbox.state()["accounts"][0]["subscriptions"] == 0


def test_a_set_up_code_connects_one_account_in_every_spelling(web: httpx.Client, sandbox: Sandbox) -> None:
    code = invite()
    assert re.fullmatch(r"([0-9A-Z]{4}-){6}[0-9A-Z]{4}", code), "28 characters of 32: 140 bits"
    typed = f"  {code.lower().replace('-', ' ').replace('0', 'o').replace('1', 'l')} "
    account = open_account(sandbox)

    assert connect_with(web, account, typed).url.path == "/connect/xero"
    assert connect_with(web, account).url.path == "/connect/xero", "who is connected signs in without a code"
    with transaction() as session:
        details = (
            session.execute(text("SELECT detail FROM audit_log WHERE action = 'copper.connected'")).scalars().all()
        )
    assert details == ["set-up code 1 (for Ann)"]

    page = connect_with(web, open_account(sandbox, "Beta"), code)
    assert problem(page).startswith("This set-up code was already used.")
    assert f'value="{code}"' in page.text
    assert count("account") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("expires_at = now()", "This set-up code has expired."),
        ("revoked_at = now()", "This set-up code was revoked."),
        ("code_hash = ''", "This set-up code isn't valid."),
    ],
)
def test_an_invalid_code_is_refused_before_calling_copper(
    web: httpx.Client, sandbox: Sandbox, change: str, message: str
) -> None:
    code = invite()
    with transaction() as session:
        session.execute(text(f"UPDATE invitation SET {change}"))
    page = connect_with(web, open_account(sandbox), code)

    assert problem(page).startswith(message)
    assert count("account") == 0
    assert sandbox.calls("/copper/") == 0


def test_guessing_codes_counts_as_sign_in_attempts(web: httpx.Client, sandbox: Sandbox) -> None:
    account = open_account(sandbox)
    statuses = [connect_with(web, account, f"WRONG-{number}").status_code for number in range(16)]
    assert (statuses[:10], 429 in statuses) == ([422] * 10, True)


def test_a_code_is_not_used_up_by_a_failed_attempt(web: httpx.Client, sandbox: Sandbox) -> None:
    account, code = open_account(sandbox), invite()
    page = connect_with(web, {**account, "key": "wrong"}, code)
    assert (page.status_code, "accept this API key" in page.text) == (422, True)
    assert f'value="{code}"' in page.text
    assert connect_with(web, account, code).url.path == "/connect/xero"


def test_one_code_connects_only_one_of_two_concurrent_accounts(web: httpx.Client, sandbox: Sandbox) -> None:
    pair, code = [open_account(sandbox, name) for name in ("First", "Second")], invite()
    sandbox.faults(api=[{"vendor": "copper", "type": "latency", "path": "users/me", "seconds": 0.5}])
    with ThreadPoolExecutor(2) as threads:
        pages = list(threads.map(lambda account: connect_with(web, account, code), pair))

    assert sorted(page.status_code for page in pages) == [200, 422]
    (refused,) = [page for page in pages if page.status_code == 422]
    assert problem(refused).startswith("This set-up code was already used.")
    assert count("account") == 1


def test_browsers_that_connect_an_account_at_once_are_all_signed_in_with_one_code(
    web: httpx.Client, sandbox: Sandbox
) -> None:
    account, codes = open_account(sandbox), [invite(), invite()]
    sandbox.faults(api=[{"vendor": "copper", "type": "latency", "path": "users/me", "seconds": 0.5}])
    with ThreadPoolExecutor(4) as threads:
        pages = list(threads.map(lambda number: connect_with(web, account, codes[number % 2]), range(4)))

    assert [page.url.path for page in pages] == ["/connect/xero"] * 4
    assert count("account") == 1
    with transaction() as session:
        states = sorted(invitations.get_state(session, code) for code in codes)
    assert states == [InvitationState.OPEN, InvitationState.USED], "the account is made by one of them"


def test_a_listed_account_needs_no_code_and_uses_none(web: httpx.Client, sandbox: Sandbox) -> None:
    account, other_account, code = open_account(sandbox), open_account(sandbox, "Beta"), invite()
    override_settings({"COPPER_ACCOUNTS": f"1, {account['id']}"})

    assert connect_with(web, account, code).url.path == "/connect/xero"
    assert problem(connect_with(web, other_account)).startswith("This Copper account isn't connected yet.")
    with transaction() as session:
        assert invitations.get_state(session, code) is InvitationState.OPEN


def test_a_copper_account_name_grants_no_operator_access(web: httpx.Client, sandbox: Sandbox) -> None:
    account = open_account(sandbox)
    admin = connect.identify(account["key"], account["email"])
    with pytest.raises(connect.AccountNotAllowedError):
        connect.connect_copper(account["key"], account["email"], actor=COMMAND_LINE, admin=admin)
    assert count("account") == 0


def test_a_disconnected_account_needs_a_new_code(web: httpx.Client, sandbox: Sandbox) -> None:
    account = open_account(sandbox)
    connect_with(web, account, invite())
    with transaction() as session:
        (account_id,) = session.execute(text("SELECT id FROM account")).scalars()
    connect.disconnect(account_id, actor="Ann")

    assert problem(connect_with(web, account)).startswith("This Copper account isn't connected yet.")
    assert connect_with(web, account, invite()).url.path == "/connect/xero"


def test_the_command_creates_lists_and_revokes_codes(web: httpx.Client, sandbox: Sandbox) -> None:
    output_lines = patina("invite", "--days", "3", "--note", "Ann\nof Acme").stdout.splitlines()
    assert output_lines[1].startswith("Set-up code 1: for one new account, until ")
    assert output_lines[2] == f"Enter it with a Copper API key at {settings().public_url}/connect"
    payload = json.loads(patina("invite", "--json").stdout)
    assert connect_with(web, open_account(sandbox), output_lines[0]).url.path == "/connect/xero"
    assert patina("invite", "revoke", str(payload["id"])).stdout == "revoked: set-up code 2\n"
    assert problem(connect_with(web, open_account(sandbox, "Beta"), payload["code"])).startswith(
        "This set-up code was rev"
    )

    completed = patina("invite", "revoke", "1")
    assert (completed.returncode, completed.stderr.startswith("There is no unused set-up code 1.")) == (1, True)
    listing = patina("invite", "list").stdout
    assert re.search(r"^    2  revoked  on \d{4}-", listing, re.MULTILINE)
    assert re.search(r"^    1  used     on .* UTC +Ann of Acme$", listing, re.MULTILINE)
    assert listing.endswith("\n2 set-up codes\n")
    assert output_lines[0] not in listing
    assert [invitation["state"] for invitation in json.loads(patina("invite", "list", "--json").stdout)] == [
        "revoked",
        "used",
    ]
    assert patina("invite", "--days", "0").returncode == 2
    assert [action for action in audit_actions() if action.startswith("invitation")] == ["invitation.made"] * 2 + [
        "invitation.revoked"
    ]


def test_codes_are_stored_as_hashes_and_deleted_after_they_expire(database: str) -> None:
    code = invite()
    with transaction() as session:
        stored = session.execute(text("SELECT row_to_json(i)::text FROM invitation i")).scalar_one()
        assert code not in stored
        assert code.replace("-", "") not in stored
        assert invitations.purge(session, 30) == 0
        session.execute(text("UPDATE invitation SET expires_at = now() - interval '31 days'"))
        assert invitations.purge(session, 30) == 1


@pytest.mark.parametrize("setting", ["acme", "1,*x", "1.5", "\u0663"])
def test_an_invalid_account_list_is_reported_at_start_up(setting: str) -> None:
    override_settings({"COPPER_ACCOUNTS": setting})
    with pytest.raises(SettingsError, match="COPPER_ACCOUNTS is invalid: must be numbers separated by commas"):
        settings()


def test_sign_in_with_copper_says_that_a_set_up_code_is_needed(world: World) -> None:
    outsider = open_account(world.sandbox, "Outsider")
    browser = AdminBrowser(world.web)
    browser.open("/connect")
    away = browser.send("/signin/copper", follow=False).headers["location"]
    page = httpx.get(f"{away}&login_hint={outsider['email']}", trust_env=False).text
    form = dict(re.findall(r'name="(code|state)" value="([^"]*)"', page))
    return_url = browser.http.post("/callback/copper", data=form).headers["location"]
    response = browser.open(return_url)
    assert response.status_code == 403
    assert "An admin can connect it below, with an API key and a set-up code." in response.text
