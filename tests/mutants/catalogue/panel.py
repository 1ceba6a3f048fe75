"""Breaks of the panel's script, noticed in a real browser."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

SCRIPTS = (
    mutant(
        "old rows stay when the context changes (JavaScript)",
        "web/static/panel.js",
        "if (!record || named.key !== record.key) clear();",
        "",
        "test_panel_host.py::test_the_old_record_goes_even_before_copper_says_which_one_is_next",
    ),
    mutant(
        "the badge keeps the old record's count (JavaScript)",
        "web/static/panel.js",
        '    announce("");\n    badge(0);\n',
        '    announce("");\n',
        "test_panel_host.py::test_nothing_of_the_old_record_stays_from_the_moment_the_context_changes",
    ),
    mutant(
        "an answer of another record is shown (JavaScript)",
        "web/static/panel.js",
        ' || part.dataset.record !== record.key) return "failed";',
        ') return "failed";',
        "test_panel_host.py::test_an_answer_that_names_another_record_or_is_not_ours_counts_as_no_answer",
    ),
    mutant(
        "a message's type names any property (JavaScript)",
        "web/static/panel.js",
        "if (from === origin) handlers.get(data.type)?.(data);",
        "if (from === origin) Object.fromEntries(handlers)[data.type]?.(data);",
        "test_panel_host.py::test_odd_messages_neither_throw_nor_change_anything",
    ),
    mutant(
        "an answer that nobody asked for is believed (JavaScript)",
        "web/static/panel.js",
        "if (!contextId || message.id !== contextId) return;",
        "if (!contextId) return;",
        "test_panel_host.py::test_no_answer_within_five_seconds_clears_the_old_record_and_a_late_one_counts",
    ),
    mutant(
        "a double click opens two rows or none (JavaScript)",
        "web/static/panel.js",
        "event.detail < 2 && toggleDetails(target)",
        "toggleDetails(target)",
        "test_panel_browser.py::test_a_double_click_on_match_details_opens_one_row",
    ),
    mutant(
        "a live change draws everything anew: focus, scroll and open rows are lost (JavaScript)",
        "web/static/panel.js",
        "else if (wanted === shownChoice) update(current, part);",
        "else if (wanted === shownChoice) place.replaceChildren(part);",
        "test_panel_host.py::test_a_live_change_keeps_scroll_focus_and_what_is_open",
    ),
    mutant(
        "focus is lost when all rows are shown (JavaScript)",
        "web/static/panel.js",
        "if (afterRender) afterRender();",
        "if (false) ;",
        "test_panel_host.py::test_show_all_moves_focus_to_the_first_new_row_and_show_fewer_back",
    ),
    mutant(
        "a record id that is no safe number is asked for (JavaScript)",
        "web/static/panel.js",
        "if (!Number.isSafeInteger(id) || id < 1)",
        "if (!Number.isFinite(id))",
        "test_panel_host.py::test_a_record_id_that_cannot_be_one_is_told_and_not_asked_for",
    ),
    mutant(
        "a filter that could not be applied stays chosen (JavaScript)",
        "web/static/panel.js",
        "    choice = shownChoice;\n",
        "",
        "test_panel_host.py::test_a_filter_that_could_not_be_applied_is_taken_back",
    ),
    mutant(
        "a request that is never answered is waited for (JavaScript)",
        "web/static/panel.js",
        "setTimeout(() => controller.abort(), TIMEOUT * 1000)",
        "setTimeout(() => controller.abort(), TIMEOUT * 1000000)",
        "test_panel_host.py::test_a_request_that_is_never_answered_is_given_up_and_made_again",
    ),
    mutant(
        "pages that claim to be Copper are listened to (JavaScript)",
        "web/static/panel.js",
        "if (from === origin) handlers",
        "handlers",
        "test_panel_host.py::test_messages_of_another_page_are_not_listened_to",
    ),
)
