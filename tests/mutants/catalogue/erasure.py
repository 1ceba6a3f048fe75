"""Mutants of erasure: closed accounts, and persons."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

ERASURE = (
    mutant(
        "erasing a company keeps its email domain",
        "store/accounts/erasure.py",
        "name_key = '', email_domain = NULL, changed_at",
        "name_key = '', changed_at",
        "integration/test_email_domain_matching.py::test_erasing_a_company_forgets_its_domain_and_what_it_showed_by_it",
    ),
    mutant(
        "writers to a table without a foreign key do not lock the account",
        "store/db/tenancy.py",
        "AND closed_at IS NULL FOR KEY SHARE",
        "AND closed_at IS NULL",
        "integration/test_deprovisioning.py::test_erasure_waits_for_running_writers_and_erases_their_rows_too",
    ),
    mutant(
        "the projection continues after the account is closed",
        "store/read_model/projection.py",
        "    tenancy.lock_account(session, account_id)\n",
        "",
        "integration/test_deprovisioning.py::test_a_closed_account_accepts_nothing_and_running_work_ends_without_an_error",
    ),
    mutant(
        "a closed account keeps its Copper account id",
        "store/accounts/accounts.py",
        "    session.execute(RELEASE_COPPER_ID, params)\n",
        "",
        "integration/test_deprovisioning.py::test_an_account_reconnected_before_its_erasure_is_a_new_account",
    ),
    mutant(
        "an address is only searched in its exact spelling",
        "services/person_erasure.py",
        "        unescaped = unquote(html.unescape(ESCAPE.sub(_unescape, text)))",
        "        unescaped = text",
        "integration/test_person_erasure.py::test_an_address_is_found_in_every_spelling",
    ),
    mutant(
        "the names of linked contacts are not erased",
        "services/person_erasure.py",
        "        erasure.add_linked(session, account_id, person)\n",
        "",
        "integration/test_person_erasure.py::test_erasing_an_address_removes_it_from_every_column_of_every_table",
    ),
)
