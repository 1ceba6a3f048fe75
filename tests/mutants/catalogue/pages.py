"""Mutants of the web pages: forms and templates."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

FORMS = (
    mutant(
        "a full-width formula is exported",
        "web/presentation/spreadsheets.py",
        'unicodedata.normalize("NFKC", first_visible) in FORMULA_SIGNS',
        "first_visible in FORMULA_SIGNS",
        "unit/test_csv_injection.py::test_a_formula_is_text_whatever_precedes_it",
    ),
    mutant(
        "any user id becomes an admin unchecked",
        "web/admin/settings.py",
        "user = client_for_account(browser_session.account_id, Priority.INTERACTIVE).get_user(user_id)",
        'user = CopperUser.model_validate({"id": user_id})',
        "integration/test_connections.py::test_only_a_user_of_the_copper_account_becomes_an_admin",
    ),
    mutant(
        "a key is revoked without a confirmation",
        "web/admin/keys.py",
        "    key = next((key for key in _list_keys(browser_session.account_id) if key.id == key_id), None)\n",
        "    key = next((key for key in _list_keys(browser_session.account_id) if key.id == key_id), None)\n"
        "    with account_transaction(browser_session.account_id) as session:\n"
        "        api_keys.revoke(session, browser_session.account_id, key_id)\n",
        "integration/test_destructive_actions.py::test_a_confirmation_page_changes_nothing_and_refuses_ids_of_other_accounts",
    ),
    mutant(
        "a new key is shown again on reload",
        "store/accounts/oauth_state.py",
        "    DELETE FROM oauth_state WHERE account_id = :account AND state_hash = :state\n    RETURNING",
        "    UPDATE oauth_state SET purpose = purpose WHERE account_id = :account AND state_hash = :state\n"
        "    RETURNING",
        "integration/test_form_errors.py::test_reloading_the_page_of_a_new_key_creates_and_shows_no_key",
    ),
    mutant(
        "the goodbye page is shown to a connected account",
        "web/auth/browser.py",
        "return disconnected_at is not None and 0 <= time.time() - disconnected_at <= DISCONNECTED_SECONDS",
        "return True",
        "integration/test_destructive_actions.py::test_the_goodbye_page_is_only_shown_after_disconnecting",
    ),
    mutant(
        "² and ٣ count as digits",
        "runtime/numbers.py",
        "if DIGITS.fullmatch(text) is None:",
        "if not text.isdigit():",
        "integration/test_number_parsing.py::test_only_ascii_digits_form_a_whole_number",
    ),
    mutant(
        "a refused form repeats the typed key",
        "web/admin/forms.py",
        'SECRET_FIELDS = frozenset({"key", "confirm_key", "csrf"})',
        'SECRET_FIELDS = frozenset({"csrf"})',
        "integration/test_form_errors.py::test_no_secret_is_part_of_a_refused_form",
    ),
    mutant(
        "settings without any record type are saved without a question",
        "web/admin/settings.py",
        "if not self.record_type and not self.none_ok:",
        "if False:",
        "integration/test_form_errors.py::test_selecting_no_record_type_is_questioned_and_never_saved_silently",
    ),
    mutant(
        "an account is disconnected without typing its name",
        "web/admin/account.py",
        'if forms.clean_line(str(form.get("name", ""))) != browser_session.account_name:',
        "if False:",
        "integration/test_connect_pages.py::test_disconnecting_requires_the_account_name_and_leaves_nothing_behind",
    ),
    mutant(
        "another Copper account's key is accepted",
        "web/admin/settings.py",
        "if key_account_id != browser_session.account_id:",
        "if False:",
        "integration/test_connect_pages.py::test_the_copper_key_can_only_be_replaced_by_one_of_the_same_account",
    ),
    mutant(
        "a change is audited in a separate transaction",
        "services/access.py",
        "    key = api_keys.create(session, account_id, name, list(scopes))",
        "    with account_transaction(account_id) as other:\n"
        "        key = api_keys.create(other, account_id, name, list(scopes))",
        "integration/test_connections.py::test_a_change_that_cannot_be_audited_is_rolled_back",
    ),
)

TEMPLATES = (
    mutant(
        "an overdue invoice's status says Awaiting payment",
        "web/presentation/invoice_rows.py",
        'status=f"Overdue {locales.format_number(overdue_days, locale)} d" if overdue_days else status,',
        "status=status,",
        "integration/test_panel.py::test_a_record_shows_balances_rows_and_days_overdue",
    ),
    mutant(
        "overdue totals are missing (template)",
        "web/templates/record_part.html",
        "{{ tile.label }} <strong>{{ tile.amount }}</strong>",
        "{{ tile.label }}",
        "integration/test_panel.py::test_a_record_shows_balances_rows_and_days_overdue",
    ),
    mutant(
        "without scripts the panel is empty (template)",
        "web/templates/panel.html",
        '<noscript><p class="error">Turn on JavaScript to use this panel.</p></noscript>\n',
        "",
        "browser/test_panel_host.py::test_without_javascript_the_panel_only_says_so",
    ),
    mutant(
        "an issuer's name is not escaped (template)",
        "web/templates/record_part.html",
        '<td role="cell" class="issuer">{{ invoice.issuer }}</td>',
        '<td role="cell" class="issuer">{{ invoice.issuer | safe }}</td>',
        "integration/test_panel.py::test_vendor_names_are_escaped",
    ),
    mutant(
        "match details link out of the panel (template)",
        "web/templates/record_part.html",
        "{% if in_panel is defined %}<button",
        "{% if false %}<button",
        "browser/test_panel_browser.py::test_match_details_open_in_place_and_lead_to_the_record_in_copper",
    ),
    mutant(
        "a field has no reference to its error (template)",
        "web/templates/_forms.html",
        '{% if invalid %} aria-invalid="true"{% endif %}',
        "",
        "integration/test_form_errors.py::test_refused_settings_keep_every_choice_and_touch_no_other_form",
    ),
    mutant(
        "a new key cannot be copied by a button (template)",
        "web/templates/_forms.html",
        'data-copy="secret" hidden>',
        'data-copy="nothing" hidden>',
        "browser/test_browser.py::test_a_key_can_be_copied_with_a_button_when_scripts_are_enabled",
    ),
)
