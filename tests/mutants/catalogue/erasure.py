"""Breaks of what erases: accounts that are closed, people who ask to be forgotten."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

ERASURE = (
    mutant(
        "who adds rows to a table without a foreign key does not hold the account",
        "store/tenancy.py",
        "AND closed_at IS NULL FOR KEY SHARE",
        "AND closed_at IS NULL",
        "test_erasure.py::test_whoever_is_adding_rows_is_waited_for_and_what_they_added_is_erased_too",
    ),
    mutant(
        "the projection goes on when the account is closed",
        "store/projection.py",
        "    tenancy.hold(session, account_id)\n",
        "",
        "test_erasure.py::test_a_closed_account_takes_nothing_in_and_ends_no_work_with_an_error",
    ),
    mutant(
        "an account that is closed keeps its Copper account",
        "store/accounts.py",
        "    session.execute(GIVE_UP_COPPER_ID, chosen)\n",
        "",
        "test_erasure.py::test_an_account_that_is_connected_again_before_it_is_erased_is_another_one",
    ),
    mutant(
        "an address is looked for as it is written alone",
        "worker/forgetting.py",
        "        plain = unquote(html.unescape(ESCAPE.sub(_unescaped, said)))",
        "        plain = said",
        "test_forgetting.py::test_an_address_is_found_in_whatever_spelling",
    ),
    mutant(
        "the names of linked contacts are not forgotten",
        "worker/forgetting.py",
        "        erasure.add_linked(session, account_id, person)\n",
        "",
        "test_forgetting.py::test_forgetting_an_address_leaves_it_in_no_column_of_any_table",
    ),
)
