"""Mutants of the parsing of vendor responses and email addresses."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

VALUES = (
    mutant(
        "the year 1 counts as a date",
        "worker/vendors/parsing.py",
        "return instant if instant.year > 1 else None",
        "return instant",
        "unit/test_vendor_schemas.py::test_times_are_parsed_in_every_format_that_vendors_use",
    ),
    mutant(
        "milliseconds count as seconds",
        "worker/vendors/parsing.py",
        "MIN_MILLISECONDS = 10**11",
        "MIN_MILLISECONDS = 10**14",
        "unit/test_vendor_schemas.py::test_times_are_parsed_in_every_format_that_vendors_use",
    ),
    mutant(
        "booleans count as numbers",
        "worker/vendors/parsing.py",
        "if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):",
        "if not isinstance(value, (int, float, str, Decimal)):",
        "unit/test_vendor_schemas.py::test_an_invalid_id_makes_no_row",
    ),
    mutant(
        "an amount loses its last digits",
        "worker/vendors/parsing.py",
        "number = Decimal(value)",
        "number = Decimal(float(value))",
        "unit/test_vendor_schemas.py::test_the_longest_possible_row_fits_the_index_of_the_read_model",
    ),
    mutant(
        "a malformed list entry loses its row",
        "worker/vendors/parsing.py",
        "_prune(item, subpaths[index]) if index in subpaths else (item,) for index",
        "(item,) for index",
        "unit/test_vendor_schemas.py::test_a_malformed_list_entry_only_affects_itself",
    ),
    mutant(
        "a null among a record's addresses loses its row",
        "worker/vendors/copper/schemas.py",
        "return extract_addresses(*(entry.email for entry in emails if entry))",
        "return extract_addresses(*(entry.email for entry in emails))  # type: ignore[union-attr]",
        "unit/test_vendor_schemas.py::test_a_malformed_list_entry_only_affects_itself",
    ),
    mutant(
        "a malformed field loses its row",
        "worker/vendors/parsing.py",
        "raw_row = _without(raw_row, paths)",
        "return None",
        "integration/test_malformed_vendor_data.py::test_a_malformed_field_of_an_invoice_affects_neither_the_invoice_nor_its_other_fields",
    ),
    mutant(
        "a version from the future blocks later ones",
        "worker/vendors/parsing.py",
        "        if is_beyond:\n            self.updated_at = None\n",
        "",
        "unit/test_vendor_schemas.py::test_a_version_ahead_of_the_vendors_clock_is_ignored",
    ),
    mutant(
        "an unreadable value is logged",
        "worker/vendors/parsing.py",
        'return row_id if LOGGED_ID.fullmatch(row_id) else ""',
        "return row_id",
        "unit/test_vendor_schemas.py::test_errors_name_fields_and_ids_but_never_values",
    ),
    mutant(
        "an unreadable invoice is deleted",
        "worker/vendors/xero/client.py",
        'page.unreadable.update({str(row_id): "could not be read: it has no id" for row_id in missing_ids})',
        "pass",
        "integration/test_malformed_vendor_data.py::test_an_event_of_an_unreadable_invoice_is_quarantined_on_its_first_attempt",
    ),
)

ADDRESSES = (
    mutant(
        "ß and ss are equal",
        "worker/vendors/addresses.py",
        'unicodedata.normalize("NFC", typed).lower())',
        'unicodedata.normalize("NFC", typed).casefold())',
        "integration/test_email_addresses.py::test_different_addresses_stay_different",
    ),
    mutant(
        "invisible characters are significant",
        "worker/vendors/addresses.py",
        'return "".join(char for char in token if not _is_invisible(char))',
        "return token",
        "integration/test_email_addresses.py::test_equivalent_spellings_of_an_address_normalise_to_the_same",
    ),
    mutant(
        "lists are not split at commas and semicolons",
        "worker/vendors/addresses.py",
        r"""SEPARATORS = r'\s,;<>()""",
        r"""SEPARATORS = r'\s<>()""",
        "integration/test_email_addresses.py::test_a_list_of_addresses_is_split",
    ),
    mutant(
        "domains are not normalised",
        "worker/vendors/addresses.py",
        "        return None\n    return _ascii_form(typed)",
        "        return None\n    return lower",
        "integration/test_email_addresses.py::test_spellings_of_the_same_domain_normalise_to_the_same",
    ),
    mutant(
        "straße.test and strasse.test are the same domain",
        "worker/vendors/addresses.py",
        "idna.encode(typed, uts46=True, transitional=False)",
        "idna.encode(typed.casefold(), uts46=True, transitional=False)",
        "integration/test_email_addresses.py::test_different_addresses_stay_different",
    ),
    mutant(
        "plus tags are removed",
        "worker/vendors/addresses.py",
        "    if local is None or domain is None:\n        return None\n",
        '    if local is None or domain is None:\n        return None\n    local = local.partition("+")[0]\n',
        "integration/test_matching.py::test_plus_signs_and_dots_do_matter",
    ),
)
