"""Breaks of how vendors' answers and e-mail addresses are read."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

VALUES = (
    mutant(
        "the year 1 counts as a date",
        "worker/parsing.py",
        "return found if found.year > 1 else None",
        "return found",
        "test_wire.py::test_times_are_read_in_every_form_that_vendors_use",
    ),
    mutant(
        "milliseconds count as seconds",
        "worker/parsing.py",
        "FIRST_MILLISECONDS = 10**11",
        "FIRST_MILLISECONDS = 10**14",
        "test_wire.py::test_times_are_read_in_every_form_that_vendors_use",
    ),
    mutant(
        "yes and no count as numbers",
        "worker/parsing.py",
        "if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):",
        "if not isinstance(value, (int, float, str, Decimal)):",
        "test_wire.py::test_what_is_no_id_makes_no_row",
    ),
    mutant(
        "an amount loses its last digits",
        "worker/parsing.py",
        "number = Decimal(value)",
        "number = Decimal(float(value))",
        "test_wire.py::test_the_longest_row_that_a_vendor_can_send_fits_the_read_models_index",
    ),
    mutant(
        "an odd entry of a list costs its row",
        "worker/parsing.py",
        "_kept(item, below[index]) if index in below else (item,) for index",
        "(item,) for index",
        "test_wire.py::test_an_odd_entry_of_a_list_costs_itself_alone",
    ),
    mutant(
        "a null among a record's addresses costs its row",
        "worker/copper/wire.py",
        "return addresses_of(*(entry.email for entry in emails if entry))",
        "return addresses_of(*(entry.email for entry in emails))  # type: ignore[union-attr]",
        "test_wire.py::test_an_odd_entry_of_a_list_costs_itself_alone",
    ),
    mutant(
        "an odd field costs its row",
        "worker/parsing.py",
        "item = _without(item, places)",
        "return None",
        "test_odd_answers.py::test_an_odd_field_of_an_invoice_costs_neither_the_invoice_nor_its_other_fields",
    ),
    mutant(
        "a version from the future keeps every later one out",
        "worker/parsing.py",
        "        if is_beyond:\n            self.updated_at = None\n",
        "",
        "test_wire.py::test_a_version_beyond_the_vendors_clock_counts_as_not_given",
    ),
    mutant(
        "a value that could not be read is logged",
        "worker/parsing.py",
        'return name if LOGGED_ID.fullmatch(name) else ""',
        "return name",
        "test_wire.py::test_names_of_fields_and_ids_are_told_and_never_a_value",
    ),
    mutant(
        "an invoice that came back unreadable is taken for gone",
        "worker/xero/client.py",
        'answer.unreadable.update({str(row_id): "could not be read: it has no id" for row_id in missing})',
        "pass",
        "test_odd_answers.py::test_an_event_whose_invoice_cannot_be_read_is_put_aside_at_its_first_try",
    ),
)

ADDRESSES = (
    mutant(
        "ß and ss are one letter",
        "worker/addresses.py",
        'unicodedata.normalize("NFC", typed).lower())',
        'unicodedata.normalize("NFC", typed).casefold())',
        "test_addresses.py::test_nothing_else_is_folded",
    ),
    mutant(
        "invisible characters count",
        "worker/addresses.py",
        'return "".join(one for one in token if not _is_invisible(one))',
        "return token",
        "test_addresses.py::test_what_means_the_same_address_is_compared_as_the_same",
    ),
    mutant(
        "lists are not taken apart at commas and semicolons",
        "worker/addresses.py",
        r"""SEPARATORS = r'\s,;<>()""",
        r"""SEPARATORS = r'\s<>()""",
        "test_addresses.py::test_a_list_is_taken_apart",
    ),
    mutant(
        "domains are compared as they are spelt",
        "worker/addresses.py",
        "        return None\n    return _ascii_form(typed)",
        "        return None\n    return lower",
        "test_addresses.py::test_spellings_of_one_domain_meet",
    ),
    mutant(
        "straße.test and strasse.test are one domain",
        "worker/addresses.py",
        "idna.encode(typed, uts46=True, transitional=False)",
        "idna.encode(typed.casefold(), uts46=True, transitional=False)",
        "test_addresses.py::test_nothing_else_is_folded",
    ),
    mutant(
        "what follows a plus sign is dropped",
        "worker/addresses.py",
        "    if local is None or compared is None:\n        return None\n",
        '    if local is None or compared is None:\n        return None\n    local = local.partition("+")[0]\n',
        "test_matching.py::test_plus_signs_and_dots_do_matter",
    ),
)
