"""Breaks of the web pages: what forms do, and what templates show."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

FORMS = (
    mutant(
        "a formula in full width is written into a spreadsheet",
        "web/spreadsheets.py",
        'unicodedata.normalize("NFKC", first) in SIGNS',
        "first in SIGNS",
        "test_spreadsheets.py::test_a_formula_is_text_whatever_stands_before_it",
    ),
    mutant(
        "anybody's number becomes an admin unchecked",
        "web/pages/settings.py",
        "user = connected(session.account_id, Purpose.PERSON).user(user_id)",
        'user = WireUser.model_validate({"id": user_id})',
        "test_connections.py::test_only_a_user_of_the_copper_account_becomes_an_admin",
    ),
    mutant(
        "a key is revoked without asking",
        "web/pages/keys.py",
        "    key = next((key for key in _keys(session.account_id) if key.id == key_id), None)\n",
        "    key = next((key for key in _keys(session.account_id) if key.id == key_id), None)\n"
        "    with bound(session.account_id) as database:\n"
        "        access.revoke_key(database, session.account_id, key_id)\n",
        "test_removing.py::test_a_page_that_asks_changes_nothing_and_knows_no_other_accounts_things",
    ),
    mutant(
        "a new key is shown again on reload",
        "store/access.py",
        "    DELETE FROM oauth_state WHERE account_id = :account AND state_hash = :state\n    RETURNING",
        "    UPDATE oauth_state SET purpose = purpose WHERE account_id = :account AND state_hash = :state\n"
        "    RETURNING",
        "test_refused_forms.py::test_a_reload_of_a_new_keys_page_creates_no_key_and_shows_none",
    ),
    mutant(
        "a living account is told goodbye",
        "web/browser.py",
        "return at is not None and 0 <= time.time() - at <= GOODBYE_SECONDS",
        "return True",
        "test_removing.py::test_nobody_is_told_goodbye_who_has_not_just_disconnected",
    ),
    mutant(
        "² and ٣ count as digits",
        "runtime/numbers.py",
        "if DIGITS.fullmatch(text) is None:",
        "if not text.isdigit():",
        "test_numbers.py::test_nothing_but_ascii_digits_is_a_whole_number",
    ),
    mutant(
        "a refused form repeats the key that was typed",
        "web/forms.py",
        'SECRETS = frozenset({"key", "confirm_key", "csrf"})',
        'SECRETS = frozenset({"csrf"})',
        "test_refused_forms.py::test_no_secret_is_part_of_a_refused_form",
    ),
    mutant(
        "settings without any record type are saved in silence",
        "web/pages/settings.py",
        "if not self.record_type and not self.none_ok:",
        "if False:",
        "test_refused_forms.py::test_no_record_type_at_all_is_asked_about_and_never_saved_in_silence",
    ),
    mutant(
        "an account is disconnected without its name",
        "web/pages/account.py",
        'if forms.line(str(form.get("name", ""))) != session.account_name:',
        "if False:",
        "test_pages.py::test_disconnecting_needs_the_accounts_name_and_leaves_nothing",
    ),
    mutant(
        "another Copper account's key is taken",
        "web/pages/settings.py",
        "if known != session.account_id:",
        "if False:",
        "test_pages.py::test_the_copper_key_is_replaced_by_another_one_of_the_same_account_only",
    ),
    mutant(
        "a change is audited after it was made, not with it",
        "web/pages/keys.py",
        '        audit.note(database, session.account_id, session.user_name, "key.made", f"{name} ({scope})")\n',
        "        database.commit()\n"
        '        audit.note(database, session.account_id, session.user_name, "key.made", f"{name} ({scope})")\n',
        "test_connections.py::test_nothing_is_changed_that_could_not_be_audited",
    ),
)

TEMPLATES = (
    mutant(
        "an overdue invoice's status says Awaiting payment",
        "web/shown.py",
        'status=f"Overdue {locales.count(late, locale)} d" if late else status,',
        "status=status,",
        "test_panel.py::test_a_record_shows_sums_rows_and_how_late_they_are",
    ),
    mutant(
        "overdue sums are left out (template)",
        "web/templates/record_part.html",
        ' · <span class="sum bad"><strong>{{ sum.overdue }}</strong> overdue</span>',
        "",
        "test_panel.py::test_a_record_shows_sums_rows_and_how_late_they_are",
    ),
    mutant(
        "without scripts the panel says nothing (template)",
        "web/templates/panel.html",
        '<noscript><p class="error">Turn on JavaScript to use this panel.</p></noscript>\n',
        "",
        "test_panel_host.py::test_without_javascript_the_panel_says_so_and_nothing_else",
    ),
    mutant(
        "an issuer's name is taken for HTML (template)",
        "web/templates/record_part.html",
        '<td role="cell" class="issuer">{{ one.issuer }}</td>',
        '<td role="cell" class="issuer">{{ one.issuer | safe }}</td>',
        "test_panel.py::test_names_from_the_vendors_are_shown_as_text",
    ),
    mutant(
        "match details are a link out of the panel (template)",
        "web/templates/record_part.html",
        "{% if in_panel is defined %}<button",
        "{% if false %}<button",
        "test_panel_browser.py::test_match_details_open_in_place_and_lead_to_the_record_in_copper",
    ),
    mutant(
        "a field and its error are not tied together (template)",
        "web/templates/_forms.html",
        '{% if wrong %} aria-invalid="true"{% endif %}',
        "",
        "test_refused_forms.py::test_refused_settings_keep_every_choice_and_touch_no_other_form",
    ),
    mutant(
        "a new key cannot be copied by a button (template)",
        "web/templates/_forms.html",
        'data-copy="secret" hidden>',
        'data-copy="nothing" hidden>',
        "test_browser.py::test_a_key_is_copied_by_a_button_where_scripts_run",
    ),
)
