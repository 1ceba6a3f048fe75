"""Who may become an account: whoever holds a set-up code, or is listed; and nobody else."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import text

from runtime.settings import SettingsError, override, settings
from store import invitations
from store.database import transaction
from store.invitations import InvitationState
from tests.admin import AdminBrowser
from tests.databases import forget_budgets
from tests.test_pages import audited, count
from tests.test_project import patina
from tests.world import Sandbox, World
from worker import connect

Account = dict[str, str]


@pytest.fixture(autouse=True)
def by_code_alone(sandbox: Sandbox, database: str) -> None:
    """Nobody is listed, and nobody has tried yet."""
    forget_budgets("throttle")
    override({"COPPER_ACCOUNTS": ""})


def open_account(sandbox: Sandbox, name: str = "Acme Sales") -> Account:
    made = sandbox.act("add_account", name=name)
    return {"key": made["api_key"], "email": made["email"], "id": str(made["account"])}


def invite(days: int = 7) -> str:
    with transaction() as session:
        return invitations.create(session, "for Ann", days)[0]


def connect_with(web: httpx.Client, account: Account, code: str = "") -> httpx.Response:
    browser = AdminBrowser(web)
    browser.open("/connect")
    return browser.send("/connect", key=account["key"], email=account["email"], code=code)


def problem(page: httpx.Response) -> str:
    """What stands at the field of the set-up code; the form was refused."""
    assert page.status_code == 422
    found = re.search(r'id="code-error">([^<]*)<', page.text)
    assert found, page.text
    return found[1].replace("&#39;", "'")


def test_an_account_that_nobody_invited_is_not_connected(web: httpx.Client, sandbox: Sandbox) -> None:
    account = open_account(sandbox)
    page = connect_with(web, account)

    assert problem(page).startswith("This Copper account isn't connected yet. Enter a set-up code")
    assert f'value="{account["email"]}"' in page.text, "what was typed stays"
    assert account["key"] not in page.text, "but for the key"
    assert count("account") == count("web_session") == 0
    assert sandbox.state()["accounts"][0]["subscriptions"] == 0


def test_a_set_up_code_connects_one_account_however_it_is_typed(web: httpx.Client, sandbox: Sandbox) -> None:
    code = invite()
    assert re.fullmatch(r"([0-9A-Z]{4}-){6}[0-9A-Z]{4}", code), "28 characters of 32: 140 bits"
    typed = f"  {code.lower().replace('-', ' ').replace('0', 'o').replace('1', 'l')} "
    account = open_account(sandbox)

    assert connect_with(web, account, typed).url.path == "/connect/xero"
    assert connect_with(web, account).url.path == "/connect/xero", "who is connected signs in without a code"
    with transaction() as session:
        details = session.execute(text("SELECT detail FROM audit WHERE action = 'copper.connected'")).scalars().all()
    assert details == ["set-up code 1 (for Ann)"]

    page = connect_with(web, open_account(sandbox, "Beta"), code)
    assert problem(page).startswith("This set-up code was already used.")
    assert f'value="{code}"' in page.text
    assert count("account") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("expires_at = now()", "This set-up code has expired."),
        ("revoked_at = now()", "This set-up code was revoked."),
        ("code_hash = ''", "This set-up code isn't valid."),
    ],
)
def test_a_code_that_is_no_good_is_refused_before_copper_is_asked(
    web: httpx.Client, sandbox: Sandbox, change: str, said: str
) -> None:
    code = invite()
    with transaction() as session:
        session.execute(text(f"UPDATE invitation SET {change}"))
    page = connect_with(web, open_account(sandbox), code)

    assert problem(page).startswith(said)
    assert count("account") == 0
    assert sandbox.calls("/copper/") == 0


def test_guessing_codes_counts_as_trying_to_sign_in(web: httpx.Client, sandbox: Sandbox) -> None:
    account = open_account(sandbox)
    answers = [connect_with(web, account, f"WRONG-{number}").status_code for number in range(16)]
    assert (answers[:10], 429 in answers) == ([422] * 10, True)


def test_a_code_outlives_a_try_that_makes_no_account(web: httpx.Client, sandbox: Sandbox) -> None:
    account, code = open_account(sandbox), invite()
    page = connect_with(web, {**account, "key": "wrong"}, code)
    assert (page.status_code, "accept this API key" in page.text) == (422, True)
    assert f'value="{code}"' in page.text
    assert connect_with(web, account, code).url.path == "/connect/xero"


def test_of_two_accounts_with_one_code_at_once_one_is_connected(web: httpx.Client, sandbox: Sandbox) -> None:
    pair, code = [open_account(sandbox, name) for name in ("First", "Second")], invite()
    sandbox.faults(api=[{"vendor": "copper", "kind": "latency", "path": "users/me", "seconds": 0.5}])
    with ThreadPoolExecutor(2) as threads:
        pages = list(threads.map(lambda account: connect_with(web, account, code), pair))

    assert sorted(page.status_code for page in pages) == [200, 422]
    (refused,) = [page for page in pages if page.status_code == 422]
    assert problem(refused).startswith("This set-up code was already used.")
    assert count("account") == 1


def test_browsers_that_connect_one_account_at_once_all_come_in_and_use_one_code_up(
    web: httpx.Client, sandbox: Sandbox
) -> None:
    account, codes = open_account(sandbox), [invite(), invite()]
    sandbox.faults(api=[{"vendor": "copper", "kind": "latency", "path": "users/me", "seconds": 0.5}])
    with ThreadPoolExecutor(4) as threads:
        pages = list(threads.map(lambda number: connect_with(web, account, codes[number % 2]), range(4)))

    assert [page.url.path for page in pages] == ["/connect/xero"] * 4
    assert count("account") == 1
    with transaction() as session:
        states = sorted(invitations.state_of(session, code) for code in codes)
    assert states == [InvitationState.OPEN, InvitationState.USED], "the account is made by one of them"


def test_a_listed_account_needs_no_code_and_uses_none_up(web: httpx.Client, sandbox: Sandbox) -> None:
    account, other, code = open_account(sandbox), open_account(sandbox, "Beta"), invite()
    override({"COPPER_ACCOUNTS": f"1, {account['id']}"})

    assert connect_with(web, account, code).url.path == "/connect/xero"
    assert problem(connect_with(web, other)).startswith("This Copper account isn't connected yet.")
    with transaction() as session:
        assert invitations.state_of(session, code) is InvitationState.OPEN


def test_a_name_at_copper_makes_nobody_the_operator(web: httpx.Client, sandbox: Sandbox) -> None:
    account = open_account(sandbox)
    admin = connect.identify(account["key"], account["email"])
    with pytest.raises(connect.NotAdmittedError):
        connect.connect_copper(account["key"], account["email"], who=connect.COMMAND, admin=admin)
    assert count("account") == 0


def test_an_account_that_was_disconnected_needs_another_code(web: httpx.Client, sandbox: Sandbox) -> None:
    account = open_account(sandbox)
    connect_with(web, account, invite())
    with transaction() as session:
        (account_id,) = session.execute(text("SELECT id FROM account")).scalars()
    connect.disconnect(account_id, who="Ann")

    assert problem(connect_with(web, account)).startswith("This Copper account isn't connected yet.")
    assert connect_with(web, account, invite()).url.path == "/connect/xero"


def test_the_command_makes_lists_and_revokes_codes(web: httpx.Client, sandbox: Sandbox) -> None:
    said = patina("invite", "--days", "3", "--note", "Ann\nof Acme").stdout.splitlines()
    assert said[1].startswith("Set-up code 1: for one new account, until ")
    assert said[2] == f"Enter it with a Copper API key at {settings().public_url}/connect"
    told = json.loads(patina("invite", "--json").stdout)
    assert connect_with(web, open_account(sandbox), said[0]).url.path == "/connect/xero"
    assert patina("invite", "revoke", str(told["id"])).stdout == "revoked: set-up code 2\n"
    assert problem(connect_with(web, open_account(sandbox, "Beta"), told["code"])).startswith(
        "This set-up code was rev"
    )

    done = patina("invite", "revoke", "1")
    assert (done.returncode, done.stderr.startswith("There is no unused set-up code 1.")) == (1, True)
    listed = patina("invite", "list").stdout
    assert re.search(r"^    2  revoked  on \d{4}-", listed, re.MULTILINE)
    assert re.search(r"^    1  used     on .* UTC +Ann of Acme$", listed, re.MULTILINE)
    assert listed.endswith("\n2 set-up codes\n")
    assert said[0] not in listed
    assert [one["state"] for one in json.loads(patina("invite", "list", "--json").stdout)] == ["revoked", "used"]
    assert patina("invite", "--days", "0").returncode == 2
    assert [one for one in audited() if one.startswith("invitation")] == ["invitation.made"] * 2 + [
        "invitation.revoked"
    ]


def test_codes_are_kept_as_hashes_and_go_a_while_after_their_end(database: str) -> None:
    code = invite()
    with transaction() as session:
        kept = session.execute(text("SELECT row_to_json(i)::text FROM invitation i")).scalar_one()
        assert code not in kept
        assert code.replace("-", "") not in kept
        assert invitations.purge(session, 30) == 0
        session.execute(text("UPDATE invitation SET expires_at = now() - interval '31 days'"))
        assert invitations.purge(session, 30) == 1


@pytest.mark.parametrize("listed", ["acme", "1,*x", "1.5", "\u0663"])
def test_a_list_that_is_none_is_named_at_the_start(listed: str) -> None:
    override({"COPPER_ACCOUNTS": listed})
    with pytest.raises(SettingsError, match="COPPER_ACCOUNTS is invalid: must be numbers separated by commas"):
        settings()


def test_whoever_is_told_to_sign_in_with_copper_learns_that_a_code_is_needed(world: World) -> None:
    outsider = open_account(world.sandbox, "Outsider")
    browser = AdminBrowser(world.web)
    browser.open("/connect")
    away = browser.send("/signin/copper", follow=False).headers["location"]
    page = httpx.get(f"{away}&login_hint={outsider['email']}", trust_env=False).text
    sent = dict(re.findall(r'name="(code|state)" value="([^"]*)"', page))
    back = browser.http.post("/callback/copper", data=sent).headers["location"]
    answer = browser.open(back)
    assert answer.status_code == 403
    assert "An admin can connect it below, with an API key and a set-up code." in answer.text
