"""Breaks of what keeps others out: signatures, keys, sessions, forms."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

SIGNATURES_AND_SECRETS = (
    mutant(
        "only the first webhook key is looked at",
        "webhooks/signature.py",
        "right |= hmac.compare_digest(wanted, given)",
        "return hmac.compare_digest(wanted, given)",
        "test_receivers.py::test_two_keys_are_active_while_one_is_rotated",
    ),
    mutant(
        "any secret opens a Copper path",
        "webhooks/signature.py",
        'return hmac.compare_digest(text.encode("utf-8", "replace"), wanted.encode())',
        "return bool(text and wanted)",
        "test_receivers.py::test_a_wrong_path_and_a_wrong_secret_look_the_same",
    ),
    mutant(
        "addresses are logged",
        "runtime/logs.py",
        'without = ADDRESS.sub("[address]", text) if "@" in text else text',
        "without = text",
        "test_project.py::test_text_for_logs_loses_addresses_and_tokens",
    ),
    mutant(
        "a state works in another browser",
        "store/access.py",
        "if not randomness.compare_digest(bytes(row.browser_hash), digest(browser)):",
        "if False:",
        "test_pages.py::test_a_state_works_once_in_its_own_browser_within_ten_minutes",
    ),
    mutant(
        "a state lasts for ever",
        "store/access.py",
        "RETURNING purpose, browser_hash, sealed, expires_at > now() AS fresh",
        "RETURNING purpose, browser_hash, sealed, true AS fresh",
        "test_pages.py::test_a_state_works_once_in_its_own_browser_within_ten_minutes",
    ),
    mutant(
        "a session outlives its days",
        "store/browser_sessions.py",
        'IS_OPEN = "expires_at > now() AND ',
        'IS_OPEN = "',
        "test_sessions.py::test_a_session_ends_after_seven_days_however_much_it_is_used",
    ),
    mutant(
        "a session that nobody uses stays open",
        "store/browser_sessions.py",
        " AND used_at > now() - make_interval(secs => :idle)",
        " AND :idle > 0",
        "test_sessions.py::test_a_session_that_nobody_uses_for_twelve_hours_ends",
    ),
    mutant(
        "a stolen session makes keys without a confirmation",
        "web/pages/confirm.py",
        "    if session.is_confirmed:\n",
        "    if session.is_admin:\n",
        "test_sessions.py::test_a_stolen_session_alone_changes_nothing_that_counts",
    ),
    mutant(
        "anybody's Copper key confirms",
        "web/pages/confirm.py",
        "    if not is_own(session, admin):\n",
        "    if False:\n",
        "test_sessions.py::test_a_wrong_key_is_audited_counts_as_a_try_and_ends_nothing",
    ),
    mutant(
        "a confirmation leaves the older token as it is",
        "store/browser_sessions.py",
        "SET token_hash = :fresh, used_at = now(),",
        "SET token_hash = coalesce(token_hash, :fresh), used_at = now(),",
        "test_sessions.py::test_of_two_confirmations_at_once_one_renews_the_session",
    ),
    mutant(
        "viewers end anybody's session",
        "web/pages/sessions.py",
        "    return None if session.is_admin else session.user_id\n",
        "    return None\n",
        "test_sessions.py::test_a_viewer_sees_and_ends_their_own_sessions_alone",
    ),
    mutant(
        "sessions outlive the Copper key",
        "worker/connect.py",
        "            browser_sessions.end_others(session, account_id, kept_id=kept_session)\n",
        "",
        "test_sessions.py::test_replacing_the_copper_key_signs_every_other_browser_out",
    ),
    mutant(
        "revoked keys go on working on every endpoint but the main read",
        "store/access.py",
        "WHERE key_hash = :hash AND revoked_at IS NULL AND scopes && CAST(:scopes AS text[])",
        "WHERE key_hash = :hash AND scopes && CAST(:scopes AS text[])",
        "test_walls.py::test_a_revoked_key_opens_no_endpoint",
    ),
    mutant(
        "a form needs no token of ours",
        "web/browser.py",
        "if not isinstance(given, str) or not randomness.compare_digest(given.encode(), wanted.encode()):",
        "if not isinstance(given, str):",
        "test_pages.py::test_a_form_without_its_token_or_from_another_site_changes_nothing",
    ),
    mutant(
        "cookies are within reach of scripts",
        "web/browser.py",
        'answer.set_cookie(_name(what), value, max_age=seconds, path="/", secure=_secure(), httponly=True',
        'answer.set_cookie(_name(what), value, max_age=seconds, path="/", secure=_secure(), httponly=False',
        "test_pages.py::test_cookies_are_signed_and_out_of_reach_of_scripts",
    ),
    mutant(
        "pages may be framed by anybody",
        "web/security.py",
        "\"default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; \"",
        "\"default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; \"",
        "test_pages.py::test_every_page_carries_its_guard",
    ),
    mutant(
        "the panel may be framed by anybody",
        "web/security.py",
        "frame-ancestors {frames}",
        "frame-ancestors *",
        "test_panel.py::test_the_page_may_be_framed_by_copper_and_runs_our_own_script_alone",
    ),
    mutant(
        "a code of the panel's window works for another panel",
        "web/panel/pages.py",
        'challenge = base64.urlsafe_b64encode(hashlib.sha256(sent.secret.encode()).digest()).decode().rstrip("=")',
        'challenge = base64.urlsafe_b64encode(hashlib.sha256(b"").digest()).decode().rstrip("=")',
        "test_panel.py::test_the_code_of_the_window_works_once_and_for_its_own_panel_alone",
    ),
)

LIMITS = (
    mutant(
        "keys may ask as often as they like",
        "web/invoices.py",
        "    throttle.api(request, key)\n",
        "",
        "test_pages.py::test_calls_of_the_api_are_limited_by_key",
    ),
    mutant(
        "passwords may be guessed as often as anybody likes",
        "web/throttle.py",
        'SIGN_IN = parse("10/5minutes")',
        'SIGN_IN = parse("1000000/5minutes")',
        "test_pages.py::test_tries_to_sign_in_are_limited",
    ),
    mutant(
        "a read may ask for more rows than a page holds",
        "web/invoices.py",
        "if not 1 <= limit <= LARGEST_PAGE:",
        "if not 1 <= limit:",
        "test_read_api.py::test_malformed_parameters_are_400_and_named",
    ),
)
