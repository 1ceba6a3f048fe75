"""Mutants of matching: by a company's email domain, by suggestions, and by links that are made many at a time."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

DOMAIN_TESTS = "integration/test_email_domain_matching.py::test_"
SUGGESTION_TESTS = "integration/test_suggestions.py::test_"

MATCHING = (
    mutant(
        "the phones of a contact are no part of drift",
        "store/mirror/drift.py",
        "OR (r.phones IS NOT NULL AND ours.phones IS DISTINCT FROM theirs.phones)",
        "",
        "integration/test_suggestions.py::test_reconciliation_counts_and_repairs_phones",
    ),
    mutant(
        "a public email domain matches",
        "store/read_model/free_email_domains.py",
        'return f"{column} NOT IN ({FREE_DOMAINS})"',
        'return f"{column} IS NOT NULL"',
        f"{DOMAIN_TESTS}public_domains_and_what_is_no_domain_never_match",
    ),
    mutant(
        "companies match by their email domain unasked",
        "store/read_model/projection.py",
        'MATCHES_DOMAINS = "(SELECT match_email_domain FROM',
        'MATCHES_DOMAINS = "(SELECT true FROM',
        f"{DOMAIN_TESTS}a_company_shows_invoices_of_its_domain_only_if_the_account_chose_so",
    ),
    mutant(
        "a changed email domain is not projected",
        "store/mirror/mirror.py",
        "WHEN old.is_deleted OR old.email_domain IS DISTINCT FROM EXCLUDED.email_domain",
        "WHEN old.is_deleted",
        f"{DOMAIN_TESTS}new_contacts_and_changed_domains_are_followed",
    ),
    mutant(
        "a record does not find the links to an opportunity",
        "store/read_model/projection.py",
        "WHERE record_type <> 'opportunity' OR {MATCHES_OPPORTUNITIES}) e",
        "WHERE record_type <> 'opportunity') e",
        "integration/test_links_and_balances.py::"
        "test_an_opportunity_keeps_the_invoices_of_its_links_when_its_relations_change",
    ),
    mutant(
        "phone numbers that an answer leaves out are deleted",
        "store/mirror/mirror.py",
        "[contact for contact in accepted if contact not in unknown]",
        "accepted",
        f"{SUGGESTION_TESTS}phones_follow_their_owners_and_an_answer_without_them_changes_nothing",
    ),
    mutant(
        "phone numbers of two countries are the same",
        "store/read_model/suggestions.py",
        "AND (right(p.phone, length(k.phone)) = k.phone OR right(k.phone, length(p.phone)) = p.phone)",
        "",
        f"{SUGGESTION_TESTS}numbers_of_different_countries_are_not_the_same",
    ),
    mutant(
        "undoing a batch removes other links too",
        "store/read_model/contact_links.py",
        "DELETE FROM contact_link WHERE account_id = :account AND batch_id = :batch",
        "DELETE FROM contact_link WHERE account_id = :account",
        f"{SUGGESTION_TESTS}many_are_listed_first_and_undone_exactly",
    ),
    mutant(
        "a file with an error is imported with exit code 0",
        "cli/links.py",
        'if counts["error"]:',
        "if not counts:",
        "integration/test_link_import.py::test_a_row_with_an_error_is_named_by_its_line_and_changes_nothing",
    ),
)
