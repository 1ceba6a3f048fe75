"""What a user of either product would do: each action changes the world and has the vendor tell of it.

Every public method of `Actions` is an action: `POST /control/act/{name}` with its arguments as JSON,
`patina sandbox act NAME argument=value …`.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints
from uuid import UUID, uuid4

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from sandbox.copper_api import CopperApi
from sandbox.delivery import Delivery
from sandbox.world import (
    PLURALS,
    TIMEZONES,
    Contact,
    CopperAccount,
    CustomField,
    HistoryLine,
    Invoice,
    Organisation,
    Payment,
    Record,
    User,
    World,
)

# An id, or what a person knows a thing by, where only one thing is called so.
InvoiceRef = Annotated[str, Field(description="the invoice's id or number")]
ContactRef = Annotated[str, Field(description="the contact's id, name or email address")]
TenantRef = Annotated[str, Field(description="the organisation's tenant id or name")]
RecordType = Literal["lead", "person", "company", "opportunity"]


DataType = Literal["Checkbox", "Currency", "Date", "Float", "Percentage", "String", "Text", "URL"]
SettableField = Literal[
    "title",
    "company_name",
    "email_domain",
    "phones",
    "websites",
    "address",
    "tags",
    "details",
    "status",
    "assignee_id",
    "contact_type_id",
    "stage_id",
    "priority",
    "monetary_value",
    "close_date",
]
SETTABLE = {name: TypeAdapter[Any](get_type_hints(Record)[name]) for name in get_args(SettableField)}


def fits(data_type: str, value: Any) -> bool:
    """Whether a value is one of a custom field's type."""
    if data_type in {"Currency", "Float", "Percentage"}:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if data_type == "Checkbox":
        return isinstance(value, bool)
    if data_type == "Date":
        return isinstance(value, str) and re.fullmatch(r"\d{2}/\d{2}/\d{4}", value) is not None
    return isinstance(value, str)


Thing = TypeVar("Thing", Contact, Invoice, Organisation)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def only(what: str, text: str, found: list[tuple[Organisation, Thing]]) -> tuple[Organisation, Thing]:
    """The one thing that is called so; raises `ActionError` for none or several."""
    if not found:
        raise ActionError(f"there is no {what} {text}")
    if len(found) > 1:
        places = ", ".join(sorted({place.name for place, _ in found}))
        raise ActionError(f"{len(found)} are called {text} ({places}): name the {what} by its id")
    return found[0]


class ActionError(Exception):
    """The action makes no sense here; the text says why."""


class Actions:
    """Acts as a user of Xero or Copper."""

    def __init__(self, world: World, delivery: Delivery, copper: CopperApi) -> None:
        self._world = world
        self._delivery = delivery
        self._copper = copper

    # Xero

    def add_organisation(
        self,
        name: str,
        currency: str = "NZD",
        short_code: str | None = None,
        country: Literal["NZ", "GB", "US", "AU"] = "NZ",
        timezone: str | None = None,
    ) -> dict[str, Any]:
        """Open a Xero organisation in its country's time zone, or in another one; answers its tenant id."""
        code = short_code or f"!{uuid4().hex[:5].upper()}"
        made = Organisation(uuid4(), name, code, currency, country, timezone or TIMEZONES[country])
        self._world.organisations[made.tenant_id] = made
        return {"tenant": str(made.tenant_id)}

    def make_contact(
        self, name: str, email: str = "", people: list[str] | None = None, tenant: TenantRef | None = None
    ) -> dict[str, Any]:
        """Add a contact, with the addresses of up to five contact persons."""
        place = self._organisation(tenant)
        if people and len(people) > 5:
            raise ActionError("a contact has at most five contact persons")
        made = Contact(uuid4(), name, email, self._world.clock.now(), people or [])
        place.contacts[made.id] = made
        self._tell_contact(place, made, "CREATE")
        return {"contact": str(made.id), "tenant": str(place.tenant_id)}

    def change_contact(
        self,
        contact: ContactRef,
        name: str | None = None,
        email: str | None = None,
        people: list[str] | None = None,
    ) -> dict[str, Any]:
        """Change a contact's name, address or contact persons."""
        place, found = self._contact(contact)
        found.name = found.name if name is None else name
        found.email = found.email if email is None else email
        found.people = found.people if people is None else people
        self._tell_contact(place, found, "UPDATE")
        return {"contact": str(found.id)}

    def archive_contact(self, contact: ContactRef) -> dict[str, Any]:
        """Archive a contact; its invoices stay."""
        place, found = self._contact(contact)
        found.status = "ARCHIVED"
        self._tell_contact(place, found, "UPDATE")
        return {"contact": str(found.id)}

    def forget_contact(self, contact: ContactRef) -> dict[str, Any]:
        """Carry out a GDPR request: the contact's personal data is removed, its invoices stay."""
        place, found = self._contact(contact)
        found.status, found.name, found.email, found.people = "GDPRREQUEST", "Removed", "", []
        self._tell_contact(place, found, "UPDATE")
        return {"contact": str(found.id)}

    def rename_organisation(
        self, tenant: TenantRef, name: str, short_code: str | None = None, timezone: str | None = None
    ) -> dict[str, Any]:
        """Rename an organisation, and change its short code or time zone; no notification is sent."""
        place = self._organisation(tenant)
        place.name = name
        place.timezone = timezone or place.timezone
        place.short_code = short_code or place.short_code
        return {"tenant": str(place.tenant_id)}

    def merge_contacts(self, loser: ContactRef, winner: ContactRef) -> dict[str, Any]:
        """Merge one contact into another: its invoices move, untouched otherwise, and it is archived."""
        place, gone = self._contact(loser)
        _, kept = self._contact(winner)
        if gone is kept or gone.merged_to or kept.merged_to or kept.id not in place.contacts:
            raise ActionError("both must be living contacts of one organisation")
        gone.status, gone.merged_to = "ARCHIVED", kept.id
        for invoice in place.invoices.values():
            if invoice.contact_id == gone.id:
                invoice.contact_id = kept.id
        self._tell_contact(place, gone, "UPDATE")
        self._tell_contact(place, kept, "UPDATE")
        return {"contact": str(kept.id)}

    def make_invoice(
        self,
        contact: ContactRef,
        total: Decimal = Decimal("115.00"),
        type: Literal["ACCREC", "ACCPAY"] = "ACCREC",
        status: Literal["DRAFT", "SUBMITTED", "AUTHORISED"] = "AUTHORISED",
        number: str | None = None,
        currency: str | None = None,
        issued: date | None = None,
        due: date | None = None,
    ) -> dict[str, Any]:
        """Raise an invoice or a bill for a contact."""
        place, found = self._contact(contact)
        if found.merged_to:
            raise ActionError("the contact was merged into another")
        if total < 0:
            raise ActionError("an invoice's total is not negative")
        now = self._world.clock.now()
        if number is None:
            number = f"INV-{place.next_number:04d}" if type == "ACCREC" else ""
            place.next_number += 1
        day = issued or now.date()
        made = Invoice(uuid4(), type, found.id, status, total, currency or place.currency, day, now, number=number)
        made.due_date = due or (None if status == "DRAFT" else day + timedelta(days=30))
        made.history = [HistoryLine("Created", now)]
        place.invoices[made.id] = made
        self._tell_invoice(place, made, "CREATE", None)
        return {"invoice": str(made.id), "number": number}

    def change_invoice(
        self,
        invoice: InvoiceRef,
        total: Decimal | None = None,
        due: date | None = None,
        number: str | None = None,
        contact: ContactRef | None = None,
        issued: date | None = None,
    ) -> dict[str, Any]:
        """Edit an invoice."""
        place, found = self._invoice(invoice)
        taken_by = self._contact(contact)[1].id if contact is not None else found.contact_id
        if contact is not None and taken_by not in place.contacts:
            raise ActionError("the contact belongs to another organisation")
        if total is not None and total < found.paid + found.credited:
            raise ActionError("the total would be less than what is paid")
        found.total = found.total if total is None else total
        found.due_date = due or found.due_date
        found.issue_date = issued or found.issue_date
        found.number = found.number if number is None else number
        found.contact_id = taken_by
        self._tell_invoice(place, found, "UPDATE", "Edited")
        return {"invoice": str(found.id)}

    def approve_invoice(self, invoice: InvoiceRef) -> dict[str, Any]:
        """Approve a draft or submitted invoice."""
        place, found = self._invoice(invoice)
        if found.status not in {"DRAFT", "SUBMITTED"}:
            raise ActionError(f"a {found.status} invoice cannot be approved")
        found.status = "AUTHORISED"
        found.due_date = found.due_date or found.issue_date + timedelta(days=30)
        self._tell_invoice(place, found, "UPDATE", "Approved")
        return {"invoice": str(found.id)}

    def credit_invoice(self, invoice: InvoiceRef, amount: Decimal, webhook: bool = True) -> dict[str, Any]:
        """Apply a credit note to an approved invoice; `webhook=false` keeps it quiet."""
        place, found = self._invoice(invoice)
        if found.status != "AUTHORISED" or not 0 < amount <= found.due:
            raise ActionError("only what is due on an approved invoice can be credited")
        found.credited += amount
        found.credits.append(Payment(uuid4(), amount, self._world.clock.now().date()))
        if found.due == 0:
            found.status, found.paid_on = "PAID", self._world.clock.now().date()
        self._tell_invoice(place, found, "UPDATE", "Credited", webhook=webhook)
        return {"invoice": str(found.id), "due": str(found.due)}

    def pay_invoice(self, invoice: InvoiceRef, amount: Decimal | None = None, webhook: bool = True) -> dict[str, Any]:
        """Record a payment, of all that is due unless an amount is given; `webhook=false` keeps it quiet."""
        place, found = self._invoice(invoice)
        paid = found.due if amount is None else amount
        if found.status not in {"AUTHORISED", "PAID"} or not 0 < paid <= found.due:
            raise ActionError("only what is due on an approved invoice can be paid")
        found.paid += paid
        found.payments.append(Payment(uuid4(), paid, self._world.clock.now().date()))
        if found.due == 0:
            found.status, found.paid_on = "PAID", self._world.clock.now().date()
        self._tell_invoice(place, found, "UPDATE", "Paid", webhook=webhook)
        return {"invoice": str(found.id), "due": str(found.due)}

    def void_invoice(self, invoice: InvoiceRef) -> dict[str, Any]:
        """Void an approved invoice without payments."""
        place, found = self._invoice(invoice)
        if found.status != "AUTHORISED" or found.paid:
            raise ActionError("only an approved invoice without payments can be voided")
        found.status = "VOIDED"
        self._tell_invoice(place, found, "UPDATE", "Voided")
        return {"invoice": str(found.id)}

    def delete_invoice(self, invoice: InvoiceRef) -> dict[str, Any]:
        """Delete a draft or submitted invoice."""
        place, found = self._invoice(invoice)
        if found.status not in {"DRAFT", "SUBMITTED"}:
            raise ActionError("only a draft or submitted invoice can be deleted")
        found.status = "DELETED"
        self._tell_invoice(place, found, "UPDATE", "Deleted")
        return {"invoice": str(found.id)}

    def disconnect(self, tenant: TenantRef) -> dict[str, Any]:
        """Disconnect the app inside Xero, as a user of the organisation can at any time."""
        place, app = self._organisation(tenant), self._world.app
        app.connections = {
            key: connection for key, connection in app.connections.items() if connection.tenant_id != place.tenant_id
        }
        return {"tenant": str(place.tenant_id)}

    def withdraw_scope(self, scope: str) -> dict[str, Any]:
        """Take a scope from every authorisation that the app holds, as when Xero retires one."""
        held = [one for one in self._world.app.authorisations.values() if scope in one.scope.split()]
        for authorisation in held:
            authorisation.scope = " ".join(name for name in authorisation.scope.split() if name != scope)
        return {"authorisations": len(held)}

    # Copper

    def add_account(self, name: str) -> dict[str, Any]:
        """Open a Copper account with one admin; answers its id, key and the admin's address."""
        number = 1 + max(self._world.accounts, default=40_000)
        key = uuid4().hex
        admin = User(number * 10 + 1, "Sam Admin", f"sam@{number}.copper.test", key, True, [(1, "Sales")])
        self._world.accounts[number] = CopperAccount(number, name, [admin], next_id=number * 1000)
        return {"account": number, "api_key": key, "email": admin.email}

    def add_user(self, name: str, admin: bool = False, account: int | None = None) -> dict[str, Any]:
        """Add a user to a Copper account; an admin gets an API key."""
        place = self._account(account)
        number = max(one.id for one in place.users) + 1
        made = User(number, name, f"user{number}@{place.id}.copper.test", uuid4().hex if admin else "", admin)
        made.groups = [(2, "Service")]
        place.users.append(made)
        return {"user": made.id, "email": made.email, "api_key": made.api_key}

    def join_team(self, user: int, team: int, name: str = "Sales", account: int | None = None) -> dict[str, Any]:
        """Put a Copper user on a team, instead of the teams that they were on."""
        place = self._account(account)
        found = next((one for one in place.users if one.id == user), None)
        if found is None:
            raise ActionError("there is no such user")
        found.groups = [(team, name)]
        return {"user": user}

    def install_app(self, url: str, account: int | None = None) -> dict[str, Any]:
        """Embed an app in Copper's pages, as an admin does; answers where to see it."""
        place = self._account(account)
        place.app_url = url
        return {"account": place.id, "page": f"/copper/companies/{place.id}/app"}

    def make_record(
        self,
        type: RecordType,
        name: str,
        emails: list[str] | None = None,
        company: int | None = None,
        primary_contact: int | None = None,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Add a lead, person, company or opportunity."""
        place = self._account(account)
        if (type == "lead" and len(emails or []) > 1) or (type in {"company", "opportunity"} and emails):
            raise ActionError("a lead has one address, a person any number, the others none")
        now = self._seconds()
        made = Record(place.fresh_id(), type, name, now, now, emails or [], company, primary_contact)
        made.status = "New" if type == "lead" else "Open"
        place.records[type][made.id] = made
        self._tell(place, made, "new", {})
        return {"id": made.id, "account": place.id}

    def change_record(
        self,
        type: RecordType,
        id: int,
        name: str | None = None,
        emails: list[str] | None = None,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Change a record's name or addresses."""
        place, found = self._record(type, id, account)
        changed: dict[str, Any] = {}
        if name is not None:
            changed["name"] = [found.name, name]
            found.name = name
        if emails is not None:
            changed["emails"] = [found.emails, emails]
            found.emails = emails
        self._touch(place, found, changed)
        return {"id": id}

    def set_field(
        self, type: RecordType, id: int, field: SettableField, value: Any, account: int | None = None
    ) -> dict[str, Any]:
        """Fill a field of a record: set-field type=person id=7 field=tags 'value=["vip"]'."""
        place, found = self._record(type, id, account)
        before = getattr(found, field)
        try:
            setattr(found, field, SETTABLE[field].validate_python(value))
        except ValidationError:
            raise ActionError(f"{value!r} does not fit the field {field}") from None
        self._touch(place, found, {field: to_jsonable_python([before, getattr(found, field)])})
        return {"id": id}

    def define_field(
        self,
        name: str,
        data_type: DataType,
        available_on: list[RecordType],
        currency: str | None = None,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Define a custom field of a Copper account; answers its id."""
        place = self._account(account)
        if (data_type == "Currency") != (currency is not None):
            raise ActionError("a Currency field has a currency, and no other field has one")
        made = CustomField(place.fresh_id(), name, data_type, list(available_on), currency)
        place.custom_fields[made.id] = made
        return {"field": made.id}

    def set_custom_field(
        self, type: RecordType, id: int, field: int, value: Any = None, account: int | None = None
    ) -> dict[str, Any]:
        """Fill a custom field of a record; without a value it is emptied. A date is mm/dd/yyyy."""
        place, found = self._record(type, id, account)
        definition = place.custom_fields.get(field)
        if definition is None or type not in definition.available_on:
            raise ActionError(f"a {type} has no custom field {field}")
        if value is not None and not fits(definition.data_type, value):
            raise ActionError(f"{value!r} does not fit a field of type {definition.data_type}")
        before, found.custom_values[field] = found.custom_values.get(field), value
        self._touch(place, found, {"custom_fields": {str(field): [before, value]}})
        return {"id": id}

    def move_person(self, person: int, company: int | None, account: int | None = None) -> dict[str, Any]:
        """Move a person to another company, or to none."""
        place, found = self._record("person", person, account)
        if company is not None and company not in place.records["company"]:
            raise ActionError(f"there is no company {company}")
        changed = {"company_id": [found.company_id, company]}
        found.company_id = company
        self._touch(place, found, changed)
        return {"id": person}

    def set_primary_contact(self, opportunity: int, person: int | None, account: int | None = None) -> dict[str, Any]:
        """Give an opportunity another primary contact, or none."""
        place, found = self._record("opportunity", opportunity, account)
        changed = {"primary_contact_id": [found.primary_contact_id, person]}
        found.primary_contact_id = person
        self._touch(place, found, changed)
        return {"id": opportunity}

    def relate(
        self,
        type: RecordType,
        id: int,
        to_type: RecordType,
        to_id: int,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Relate two records; no notification is sent."""
        place, _ = self._record(type, id, account)
        self._record(to_type, to_id, account)
        pair = {type, to_type}
        if pair == {"person", "company"}:
            person, company = (id, to_id) if type == "person" else (to_id, id)
            place.records["person"][person].company_id = company
        elif "opportunity" in pair and pair & {"person", "company"}:
            if (type, id, to_type, to_id) not in place.relations:
                place.relations.append((type, id, to_type, to_id))
        else:
            raise ActionError(f"a {type} cannot be related to a {to_type}")
        self._copper.revision += 1
        return {"id": id}

    def unrelate(
        self,
        type: RecordType,
        id: int,
        to_type: RecordType,
        to_id: int,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Remove a relation; no notification is sent."""
        place = self._account(account)
        ends = {(type, id, to_type, to_id), (to_type, to_id, type, id)}
        place.relations = [one for one in place.relations if one not in ends]
        for kind, key, other, other_id in ends:
            found = place.records[kind].get(key)
            if found and other == "company" and found.company_id == other_id:
                found.company_id = None
            if found and other == "person" and found.primary_contact_id == other_id:
                found.primary_contact_id = None
        self._copper.revision += 1
        return {"id": id}

    def delete_record(self, type: RecordType, id: int, account: int | None = None) -> dict[str, Any]:
        """Delete a record and its relations; only the deletion is notified."""
        place, found = self._record(type, id, account)
        self._remove(place, found)
        return {"id": id}

    def merge_records(self, type: RecordType, loser: int, winner: int, account: int | None = None) -> dict[str, Any]:
        """Merge two records of a type: the loser is removed, its addresses go to the winner."""
        place, gone = self._record(type, loser, account)
        _, kept = self._record(type, winner, account)
        if gone is kept:
            raise ActionError("a record cannot be merged into itself")
        emails = [*kept.emails, *(email for email in gone.emails if email not in kept.emails)]
        kept.emails = emails[:1] if type == "lead" else emails
        self._hand_over(place, gone, kept)
        self._remove(place, gone)
        self._touch(place, kept, {"emails": [[], kept.emails]})
        return {"id": winner}

    def convert_lead(
        self,
        lead: int,
        company: str | None = None,
        opportunity: str | None = None,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Convert a lead into a person, and a company and an opportunity where they are named."""
        place, found = self._record("lead", lead, account)
        made: dict[str, Any] = {"company": None, "opportunity": None}
        if company:
            made["company"] = self.make_record("company", company, account=place.id)["id"]
        person = self.make_record("person", found.name, found.emails, made["company"], account=place.id)
        made["person"] = person["id"]
        if opportunity:
            made["opportunity"] = self.make_record(
                "opportunity",
                opportunity,
                company=made["company"],
                primary_contact=made["person"],
                account=place.id,
            )["id"]
        self._remove(place, found)
        return made

    # what the actions above share

    def _organisation(self, tenant: str | None) -> Organisation:
        places = self._world.organisations
        if tenant is None and places:
            return next(iter(places.values()))
        named, key = (tenant or "").casefold(), _uuid(tenant or "")
        found = [
            (place, place) for place in places.values() if place.tenant_id == key or place.name.casefold() == named
        ]
        return only("organisation", tenant or "yet", found)[1]

    def _contact(self, contact: str) -> tuple[Organisation, Contact]:
        key, named = _uuid(contact), contact.strip().casefold()
        places = self._world.organisations.values()
        if key is not None:
            found = [(place, place.contacts[key]) for place in places if key in place.contacts]
        else:
            found = [
                (place, known)
                for place in places
                for known in place.contacts.values()
                if named in {known.name.casefold(), known.email.strip().casefold()} and not known.merged_to
            ]
        return only("contact", contact, found)

    def _invoice(self, invoice: str) -> tuple[Organisation, Invoice]:
        key, number = _uuid(invoice), invoice.strip().casefold()
        places = self._world.organisations.values()
        if key is not None:
            found = [(place, place.invoices[key]) for place in places if key in place.invoices]
        else:
            found = [
                (place, known)
                for place in places
                for known in place.invoices.values()
                if number and known.number.casefold() == number
            ]
        return only("invoice", invoice, found)

    def _tell_contact(self, place: Organisation, contact: Contact, kind: str) -> None:
        place.touch(contact, self._world.clock.now())
        self._delivery.xero_event(place.tenant_id, "CONTACT", kind, contact.id, contact.updated)

    def _tell_invoice(
        self, place: Organisation, invoice: Invoice, kind: str, did: str | None, *, webhook: bool = True
    ) -> None:
        place.touch(invoice, self._world.clock.now())
        if did:
            invoice.history.append(HistoryLine(did, invoice.updated))
        if webhook:
            self._delivery.xero_event(place.tenant_id, "INVOICE", kind, invoice.id, invoice.updated)

    def _seconds(self) -> int:
        return int(self._world.clock.now().timestamp())

    def _account(self, account: int | None) -> CopperAccount:
        if account is None and self._world.accounts:
            return next(iter(self._world.accounts.values()))
        if account is None or account not in self._world.accounts:
            raise ActionError(f"there is no account {account}")
        return self._world.accounts[account]

    def _record(self, kind: str, record_id: int, account: int | None) -> tuple[CopperAccount, Record]:
        place = self._account(account)
        found = place.records.get(PLURALS.get(kind, kind), {}).get(record_id)
        if found is None:
            raise ActionError(f"there is no {kind} {record_id}")
        return place, found

    def _touch(self, place: CopperAccount, record: Record, changed: dict[str, Any]) -> None:
        record.modified = max(self._seconds(), record.modified)
        self._tell(place, record, "update", changed)

    def _tell(self, place: CopperAccount, record: Record, event: str, changed: dict[str, Any]) -> None:
        self._copper.revision += 1
        self._delivery.copper_event(place, record.type, event, record.id, changed)

    def _hand_over(self, place: CopperAccount, gone: Record, kept: Record) -> None:
        """What was related to a merged record is related to its survivor; like all relations, unreported."""
        kind = gone.type

        def moved(end: tuple[str, int]) -> tuple[str, int]:
            return (kind, kept.id) if end == (kind, gone.id) else end

        place.relations = [(*moved((one[0], one[1])), *moved((one[2], one[3]))) for one in place.relations]
        for record in (*place.records["person"].values(), *place.records["opportunity"].values()):
            if kind == "company" and record.company_id == gone.id:
                record.company_id = kept.id
            if kind == "person" and record.primary_contact_id == gone.id:
                record.primary_contact_id = kept.id

    def _remove(self, place: CopperAccount, record: Record) -> None:
        del place.records[record.type][record.id]
        place.relations = [
            one for one in place.relations if (record.type, record.id) not in {(one[0], one[1]), (one[2], one[3])}
        ]
        for kind in ("person", "opportunity"):
            for other in place.records[kind].values():
                if record.type == "company" and other.company_id == record.id:
                    other.company_id = None
                if record.type == "person" and other.primary_contact_id == record.id:
                    other.primary_contact_id = None
        self._tell(place, record, "delete", {})
