"""Matching by a company's email domain: off unless an admin turns it on, and never by a public domain."""

from __future__ import annotations

from sqlalchemy import text

from services import person_erasure
from services.match_report import build_match_report
from store.accounts import account_settings
from store.db.database import transaction
from store.db.enums import RecordType
from store.read_model import unmatched_contacts
from store.read_model.unmatched_contacts import ContactQuery
from tests.support.admin import AdminBrowser
from tests.support.world import World


def test_a_company_shows_invoices_of_its_domain_only_if_the_account_chose_so(world: World) -> None:
    company = world.company("acme.test")
    deal = world.opportunity(company=company)
    invoice = world.invoice("billing@acme.test")
    world.settle()
    assert world.invoice_numbers("companies", company) == []

    world.match_email_domains()
    world.settle()
    assert world.invoice_numbers("companies", company) == [invoice.number]
    assert world.invoice_numbers("opportunities", deal) == [invoice.number]
    world.check()

    world.match_email_domains(is_enabled=False)
    world.settle()
    assert world.invoice_numbers("companies", company) == []
    assert world.invoice_numbers("opportunities", deal) == []
    world.check()


def test_new_contacts_and_changed_domains_are_followed(world: World) -> None:
    company = world.company("acme.test")
    world.match_email_domains()
    first = world.invoice("billing@acme.test")
    second = world.invoice("office@beta.test")
    world.settle()
    assert world.invoice_numbers("companies", company) == [first.number]

    world.simulate_copper("set_field", type="company", id=company, field="email_domain", value="beta.test")
    world.settle()
    assert world.invoice_numbers("companies", company) == [second.number]

    world.sandbox.simulate("update_contact", contact=second.contact, email="office@other.test")
    world.settle()
    assert world.invoice_numbers("companies", company) == []
    world.check()


def test_erasing_a_company_forgets_its_domain_and_what_it_showed_by_it(world: World) -> None:
    company = world.company("acme.test")
    deal = world.opportunity(company=company)
    world.match_email_domains()
    invoice = world.invoice("billing@acme.test")
    world.settle()
    assert world.invoice_numbers("opportunities", deal) == [invoice.number]

    person_erasure.erase_by_record(world.account, RecordType.COMPANY, company, actor="test")
    world.settle()
    assert world.invoice_numbers("companies", company) == []
    assert world.invoice_numbers("opportunities", deal) == []
    with transaction() as session:
        assert session.execute(text("SELECT email_domain FROM copper_record")).scalars().all() == [None, None]


def test_international_domains_are_compared_in_one_form(world: World) -> None:
    company = world.company(" @Bücher.TEST. ")
    world.match_email_domains()
    invoice = world.invoice(world.contact("Books", "ann@xn--bcher-kva.test"))
    world.settle()

    assert world.invoice_numbers("companies", company) == [invoice.number]


def test_public_domains_and_what_is_no_domain_never_match(world: World) -> None:
    companies = [world.company(domain) for domain in ("gmail.com", "GMail.com", "com", "", "acme.test, beta.test", "@")]
    world.match_email_domains()
    for address in ("ann@gmail.com", "bob@acme.test", "eve@beta.test"):
        world.invoice(address)
    world.settle()

    assert [world.invoice_numbers("companies", company) for company in companies] == [[]] * len(companies)
    world.check()


def test_a_deleted_company_shows_nothing_by_its_domain(world: World) -> None:
    company = world.company("acme.test")
    deal = world.opportunity(company=company)
    world.match_email_domains()
    invoice = world.invoice("billing@acme.test")
    world.settle()
    assert world.invoice_numbers("opportunities", deal) == [invoice.number]

    world.simulate_copper("delete_record", type="company", id=company)
    world.settle()
    assert world.invoice_numbers("opportunities", deal) == []
    world.check_rows()


def test_reconciliation_repairs_a_domain_that_no_event_reported(world: World) -> None:
    company = world.company("acme.test")
    world.match_email_domains()
    invoice = world.invoice("billing@acme.test")
    world.settle()
    world.sandbox.faults(webhooks=[{"vendor": "copper", "loss": 1.0}])
    world.simulate_copper("set_field", type="company", id=company, field="email_domain", value=None)
    world.advance_clock()

    assert world.reconcile() == {"companies": {"missing": 0, "stale": 1, "extra": 0}}
    world.settle()
    assert world.invoice_numbers("companies", company) == []
    assert invoice.number


def test_the_reason_names_the_domain(world: World, admin: AdminBrowser) -> None:
    company = world.company("acme.test")
    deal = world.opportunity(company=company)
    world.match_email_domains()
    world.invoice("billing@acme.test")
    world.settle()

    for record_type, record in ((RecordType.COMPANY, company), (RecordType.OPPORTUNITY, deal)):
        report = build_match_report(world.account, record_type, record)
        assert [reason.email_domain for reason in report.contacts[0].reasons] == ["acme.test"]
        assert report.contacts[0].reasons[0].company_id == company
    with transaction() as session:
        assert unmatched_contacts.list_page(session, world.account, ContactQuery()).contacts == ()
    page = admin.open(f"/records/company/{company}/match").text
    assert "the email domain of" in page
    assert "acme.test" in page


def test_an_admin_turns_it_on_and_other_changes_leave_it_alone(world: World, admin: AdminBrowser) -> None:
    company = world.company("acme.test")
    invoice = world.invoice("billing@acme.test")
    world.settle()
    form = {"record_type": "company", "invoice_limit": "5", "visible": "everyone", "bills": "1"}
    assert admin.send("/settings", {**form, "email_domain": "1"}).status_code == 200
    world.settle()
    assert world.invoice_numbers("companies", company) == [invoice.number]
    with transaction() as session:
        assert account_settings.get(session, world.account).match_email_domain
        account_settings.update(session, world.account, account_settings.get(session, world.account))
        assert account_settings.get(session, world.account).match_email_domain
    assert "matched by email domain too" in admin.open("/audit").text

    assert admin.send("/settings", form).status_code == 200
    world.settle()
    assert world.invoice_numbers("companies", company) == []


def test_a_link_to_an_opportunity_shows_the_invoices_there_alone(world: World) -> None:
    company = world.company()
    deal, other = world.opportunity(company=company), world.opportunity(company=company)
    contact = world.contact("Walk-in", "walkin@nowhere.test")
    invoice = world.invoice(contact)
    world.settle()
    world.link("opportunity", deal, contact)
    world.settle()

    assert world.invoice_numbers("opportunities", deal) == [invoice.number]
    assert world.invoice_numbers("opportunities", other) == []
    assert world.invoice_numbers("companies", company) == []
    world.check()

    world.simulate_copper("delete_record", type="opportunity", id=deal)
    world.settle()
    assert world.compare().is_clean
    world.check()
