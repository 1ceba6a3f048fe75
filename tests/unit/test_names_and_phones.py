"""How names, phone numbers and domains are compared."""

from __future__ import annotations

import pytest

from store.mirror.names import MAX_KEY, name_key
from worker.vendors.addresses import normalise_domain
from worker.vendors.phones import normalise_phones
from worker.vendors.xero.schemas import XeroContact


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Acme", "ACME Ltd."),
        ("Acme, Inc", "Acme Limited"),
        ("Kauri Foods Pty. Ltd.", "kauri  foods"),
        ("Müller G.m.b.H. & Co. KG", "Muller"),
        ("O\u2019Neil & Sons", "ONeil and Sons"),
        ("Café Zürich", "CAFE ZURICH"),
        ("Smith-Jones", "Smith Jones"),
    ],
)
def test_spellings_of_one_name_have_the_same_key(left: str, right: str) -> None:
    assert name_key(left) == name_key(right) != ""


@pytest.mark.parametrize(
    ("left", "right"),
    [("Acme", "Acme Foods"), ("Limited", "Ltd"), ("The Company Store", "The Store"), ("東京", "大阪")],
)
def test_different_names_have_different_keys(left: str, right: str) -> None:
    assert name_key(left) != name_key(right)


def test_a_name_without_letters_has_no_key_and_a_huge_one_a_short_key() -> None:
    assert [name_key(name) for name in ("", " ", "...", "&!")] == ["", "", "", "and"]
    assert len(name_key("\ufdfa" * 500)) <= MAX_KEY


@pytest.mark.parametrize("phone", ["+64 9 555 1234", "0064 9 555-1234", "64(0)95551234", "+64.9.555.1234 ext 12"])
def test_international_spellings_are_the_same_number(phone: str) -> None:
    assert normalise_phones(phone) == ("6495551234",)


@pytest.mark.parametrize(
    ("text", "phones"),
    [
        ("(09) 555 1234", ("95551234",)),
        ("09 555 1234 / 021 555 98765", ("2155598765", "95551234")),
        ("٠٩٥٥٥١٢٣٤", ("95551234",)),
        ("09 555 1234 x7", ("95551234",)),
        ("555 1234", ()),
        ("00000000", ()),
        ("1111 1111 11", ()),
        ("9" * 400, ()),
        ("call Ann", ()),
        (None, ()),
    ],
)
def test_what_is_no_number_is_left_out(text: str | None, phones: tuple[str, ...]) -> None:
    assert normalise_phones(text) == phones


def test_the_number_of_phones_is_bounded() -> None:
    assert len(normalise_phones(*(f"09 5551 {number}" for number in range(1_000, 1_100)))) == 20


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("acme.test", "acme.test"),
        (" @ACME.Test. ", "acme.test"),
        ("bücher.test", "xn--bcher-kva.test"),
        ("com", None),
        ("", None),
        (None, None),
        ("acme.test, beta.test", None),
        ("[127.0.0.1]", None),
        ("ann@acme.test", None),
        ("x" * 30_000, None),
    ],
)
def test_a_domain_is_normalised_as_those_of_addresses_are(text: str | None, domain: str | None) -> None:
    assert normalise_domain(text) == domain


def test_the_parts_of_a_xero_number_are_one_number_and_absent_ones_are_not_none() -> None:
    contact = {"ContactID": "00000000-0000-4000-8000-000000000001", "Name": "Acme"}
    parts = {"PhoneNumber": "555 1234", "PhoneAreaCode": "09", "PhoneCountryCode": "64"}
    assert XeroContact.model_validate({**contact, "Phones": [parts, None]}).to_row().phones == ("6495551234",)
    national = {"PhoneNumber": "555 1234", "PhoneAreaCode": "09"}
    assert XeroContact.model_validate({**contact, "Phones": [national]}).to_row().phones == ("95551234",)
    assert XeroContact.model_validate({**contact, "Phones": []}).to_row().phones == ()
    assert XeroContact.model_validate({**contact, "Phones": None}).to_row().phones is None, "null: not given"
    assert XeroContact.model_validate(contact).to_row().phones is None
