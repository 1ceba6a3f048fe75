"""Mutants of the panel's script, caught in a real browser."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

SCRIPTS = (
    mutant(
        "a filter that nobody has chosen is sent",
        "web/static/panel.js",
        'typeof kept[name] === "string" && pattern.test(kept[name])',
        "pattern.test(kept[name])",
        "browser/test_panel_host.py::test_filters_are_kept_for_the_next_visit_if_the_browser_lets_the_panel",
    ),
    mutant(
        "old rows stay when the context changes (JavaScript)",
        "web/static/panel.js",
        "if (!record || next.key !== record.key) clearRecord();",
        "",
        "browser/test_panel_host.py::test_the_old_record_disappears_before_copper_names_the_next_one",
    ),
    mutant(
        "the badge keeps the old record's count (JavaScript)",
        "web/static/panel.js",
        '    announce("");\n    setBadge(0);\n',
        '    announce("");\n',
        "browser/test_panel_host.py::test_the_old_record_disappears_as_soon_as_the_context_changes",
    ),
    mutant(
        "a response for another record is shown (JavaScript)",
        "web/static/panel.js",
        ' || part.dataset.record !== record.key) return "failed";',
        ') return "failed";',
        "browser/test_panel_host.py::test_a_response_for_another_record_or_from_another_server_is_ignored",
    ),
    mutant(
        "a message's type can name any property (JavaScript)",
        "web/static/panel.js",
        "if (senderOrigin === origin) handlers.get(data.type)?.(data);",
        "if (senderOrigin === origin) Object.fromEntries(handlers)[data.type]?.(data);",
        "browser/test_panel_host.py::test_malformed_messages_neither_throw_nor_change_anything",
    ),
    mutant(
        "an unsolicited response is accepted (JavaScript)",
        "web/static/panel.js",
        "if (!contextRequestId || message.id !== contextRequestId) return;",
        "if (!contextRequestId) return;",
        "browser/test_panel_host.py::test_no_context_within_five_seconds_clears_the_record_and_a_late_one_is_shown",
    ),
    mutant(
        "a double click opens details twice or not at all (JavaScript)",
        "web/static/panel.js",
        "event.detail < 2 && toggleDetails(target)",
        "toggleDetails(target)",
        "browser/test_panel_browser.py::test_a_double_click_on_match_details_opens_them_once",
    ),
    mutant(
        "a live change redraws everything and loses focus, scroll position and open details (JavaScript)",
        "web/static/panel.js",
        "else if (view === displayedView) updateRows(current, part);",
        "else if (view === displayedView) container.replaceChildren(part);",
        "browser/test_panel_host.py::test_a_live_change_keeps_scroll_position_focus_and_open_details",
    ),
    mutant(
        "focus is lost when all rows are shown (JavaScript)",
        "web/static/panel.js",
        "if (afterRender) afterRender();",
        "if (false) ;",
        "browser/test_panel_host.py::test_show_all_moves_the_focus_to_the_first_new_row_and_show_fewer_moves_it_back",
    ),
    mutant(
        "an unsafe record id is requested (JavaScript)",
        "web/static/panel.js",
        "if (!Number.isSafeInteger(id) || id < 1)",
        "if (!Number.isFinite(id))",
        "browser/test_panel_host.py::test_an_invalid_record_id_is_reported_and_not_requested",
    ),
    mutant(
        "a filter that failed stays selected (JavaScript)",
        "web/static/panel.js",
        "    requestedView = displayedView;\n",
        "",
        "browser/test_panel_host.py::test_a_filter_that_failed_is_reverted",
    ),
    mutant(
        "a request without a response never times out (JavaScript)",
        "web/static/panel.js",
        "setTimeout(() => controller.abort(), REQUEST_TIMEOUT_SECONDS * 1000)",
        "setTimeout(() => controller.abort(), REQUEST_TIMEOUT_SECONDS * 1000000)",
        "browser/test_panel_host.py::test_a_request_without_a_response_is_aborted_and_retried",
    ),
    mutant(
        "messages of pages that impersonate Copper are accepted (JavaScript)",
        "web/static/panel.js",
        "if (senderOrigin === origin) handlers",
        "handlers",
        "browser/test_panel_host.py::test_messages_of_another_page_are_ignored",
    ),
)
