"""Sign-in attempts get growing delays but never lock out a valid key; rate limits store no plain addresses."""

from __future__ import annotations

import pytest

from runtime.redis_client import shared_client
from store.db.crypto import pseudonym
from tests.integration.test_connect_pages import audit_actions
from tests.support.admin import AdminBrowser
from tests.support.serving import wait_until
from tests.support.world import World
from web.auth.sign_in_attempts import FREE_ATTEMPTS, MAX_WAIT_SECONDS, ProcessAttempts, wait_after
from web.middleware.client_address import label_of
from worker.vendors.copper import known_keys


def test_each_wrong_attempt_extends_the_delay_up_to_a_maximum() -> None:
    delays = [wait_after(tries) for tries in range(FREE_ATTEMPTS + 12)]
    assert not any(delays[:FREE_ATTEMPTS])
    assert delays[FREE_ATTEMPTS : FREE_ATTEMPTS + 4] == [1, 2, 4, 8]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_WAIT_SECONDS


def test_wrong_attempts_never_lock_out_an_admin_with_a_known_key(world: World, no_counts: None) -> None:
    state = world.sandbox.state()["accounts"][0]
    for _ in range(FREE_ATTEMPTS):
        assert AdminBrowser(world.web).sign_in("wrong", state["email"]).status_code == 422
    responses = [AdminBrowser(world.web).sign_in("wrong", state["email"]) for _ in range(6)]
    delays = [int(response.headers["retry-after"]) for response in responses if response.status_code == 429]
    assert delays
    assert max(delays) <= MAX_WAIT_SECONDS
    assert AdminBrowser(world.web).sign_in(state["api_key"], state["email"]).url.path == "/settings"


def test_an_unknown_valid_key_is_accepted_after_a_short_delay(world: World, no_counts: None) -> None:
    state = world.sandbox.state()["accounts"][0]
    for name in shared_client().scan_iter("*known*"):
        shared_client().delete(name)
    for _ in range(FREE_ATTEMPTS):
        AdminBrowser(world.web).sign_in("wrong", "other@acme.test")
    browser = AdminBrowser(world.web)

    def is_in() -> bool:
        return browser.sign_in(state["api_key"], state["email"]).url.path == "/settings"

    wait_until(is_in, seconds=10, description="the wait's end")
    assert known_keys.find_account_by_key(state["api_key"]) == world.copper


def test_without_redis_each_process_counts_attempts() -> None:
    tries = ProcessAttempts()
    assert [tries.begin(["address:a"]) for _ in range(FREE_ATTEMPTS)] == [0.0] * FREE_ATTEMPTS
    assert 0 < tries.begin(["address:a", "email:b"]) <= 1
    assert tries.begin(["address:c"]) == 0
    tries.refund(["address:a"])
    assert tries.begin(["address:a"]) == 0


def test_addresses_are_pseudonymised_per_installation(
    world: World, no_counts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = AdminBrowser(world.web)
    assert browser.sign_in("wrong", "ann@acme.test").status_code == 422
    names = " ".join(key.decode() for key in shared_client().scan_iter("*throttle*"))
    import hashlib

    assert label_of("127.0.0.1") in names
    for readable in ("127.0.0.1", hashlib.sha256(b"127.0.0.1").hexdigest()[:16], "acme.test"):
        assert readable not in names
    before = pseudonym("address", "127.0.0.1")
    monkeypatch.setattr("store.db.crypto._keys", lambda: ("another key",))
    assert pseudonym("address", "127.0.0.1") != before


def test_failed_sign_ins_are_in_the_audit_log_of_the_account_but_limited(world: World, no_counts: None) -> None:
    state = world.sandbox.state()["accounts"][0]
    for name in shared_client().scan_iter("*failed-sign-in*"):
        shared_client().delete(name)
    for _ in range(5):
        AdminBrowser(world.web).sign_in("wrong", state["email"])
    AdminBrowser(world.web).sign_in("wrong", "nobody@elsewhere.test")
    assert audit_actions().count("sign_in.failed") == 1
