"""Tries to sign in wait longer and longer, and never shut out who has the right key; limits name no address."""

from __future__ import annotations

import pytest

from store.secrets import pseudonym
from tests.admin import AdminBrowser
from tests.serving import wait_until
from tests.test_pages import audited
from tests.world import World
from web.client_address import label_of
from web.key_tries import FREE_TRIES, MAX_WAIT, OwnTries, wait_after
from worker import known_keys
from worker.broker import client


def test_each_wrong_try_makes_the_next_one_wait_longer_and_none_for_ever() -> None:
    waits = [wait_after(tries) for tries in range(FREE_TRIES + 12)]
    assert not any(waits[:FREE_TRIES])
    assert waits[FREE_TRIES : FREE_TRIES + 4] == [1, 2, 4, 8]
    assert waits == sorted(waits)
    assert waits[-1] == MAX_WAIT


def test_wrong_tries_never_shut_out_an_admin_whose_key_has_worked_here(world: World, no_counts: None) -> None:
    state = world.sandbox.state()["accounts"][0]
    for _ in range(FREE_TRIES):
        assert AdminBrowser(world.web).sign_in("wrong", state["email"]).status_code == 422
    more = [AdminBrowser(world.web).sign_in("wrong", state["email"]) for _ in range(6)]
    waits = [int(answer.headers["retry-after"]) for answer in more if answer.status_code == 429]
    assert waits
    assert max(waits) <= MAX_WAIT
    assert AdminBrowser(world.web).sign_in(state["api_key"], state["email"]).url.path == "/settings"


def test_a_key_that_is_new_here_gets_in_after_a_short_wait(world: World, no_counts: None) -> None:
    state = world.sandbox.state()["accounts"][0]
    for name in client().scan_iter("*known*"):
        client().delete(name)
    for _ in range(FREE_TRIES):
        AdminBrowser(world.web).sign_in("wrong", "other@acme.test")
    browser = AdminBrowser(world.web)

    def is_in() -> bool:
        return browser.sign_in(state["api_key"], state["email"]).url.path == "/settings"

    wait_until(is_in, seconds=10, what="the wait's end")
    assert known_keys.account_of_key(state["api_key"]) == world.copper


def test_without_redis_tries_are_counted_by_each_process() -> None:
    tries = OwnTries()
    assert [tries.begin(["address:a"]) for _ in range(FREE_TRIES)] == [0.0] * FREE_TRIES
    assert 0 < tries.begin(["address:a", "email:b"]) <= 1
    assert tries.begin(["address:c"]) == 0
    tries.forgive(["address:a"])
    assert tries.begin(["address:a"]) == 0


def test_an_address_leaves_the_process_as_a_pseudonym_of_this_installation(
    world: World, no_counts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = AdminBrowser(world.web)
    assert browser.sign_in("wrong", "ann@acme.test").status_code == 422
    names = " ".join(key.decode() for key in client().scan_iter("*throttle*"))
    import hashlib

    assert label_of("127.0.0.1") in names
    for readable in ("127.0.0.1", hashlib.sha256(b"127.0.0.1").hexdigest()[:16], "acme.test"):
        assert readable not in names
    before = pseudonym("address", "127.0.0.1")
    monkeypatch.setattr("store.secrets._keys", lambda: ("another key",))
    assert pseudonym("address", "127.0.0.1") != before


def test_failed_sign_ins_of_an_account_are_on_its_audit_log_and_few(world: World, no_counts: None) -> None:
    state = world.sandbox.state()["accounts"][0]
    for name in client().scan_iter("*failed-sign-in*"):
        client().delete(name)
    for _ in range(5):
        AdminBrowser(world.web).sign_in("wrong", state["email"])
    AdminBrowser(world.web).sign_in("wrong", "nobody@elsewhere.test")
    assert audited().count("sign_in.failed") == 1
