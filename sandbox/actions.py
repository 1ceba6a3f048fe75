"""User actions in either product: each action changes the data and makes the vendor send its webhooks.

Every public method of `Actions` is an action: `POST /control/actions/{name}` with its arguments as JSON, or
`patina sandbox simulate NAME argument=value …`.
"""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Literal, get_args, get_type_hints
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from sandbox.action_base import ActionError, ContactRef, InvoiceRef, TenantRef
from sandbox.copper_action_base import RecordType
from sandbox.copper_changes import RecordChanges
from sandbox.credit_actions import CreditActions
from sandbox.custom_field_actions import CustomFieldActions
from sandbox.delivery import Delivery
from sandbox.world import (
    TIMEZONES,
    Contact,
    CopperAccount,
    Credit,
    HistoryEntry,
    Invoice,
    Organisation,
    Payment,
    Record,
    User,
    World,
)

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


class Actions(CreditActions, CustomFieldActions):
    """Simulates a user of Xero or Copper."""

    def __init__(self, world: World, delivery: Delivery, changes: RecordChanges) -> None:
        CreditActions.__init__(self, world, delivery)
        CustomFieldActions.__init__(self, world, changes)

    # Xero

    def add_organisation(
        self,
        name: str,
        currency: str = "NZD",
        short_code: str | None = None,
        country: Literal["NZ", "GB", "US", "AU"] = "NZ",
        timezone: str | None = None,
    ) -> dict[str, Any]:
        """Create a Xero organisation, in its country's time zone unless another is given; returns its tenant id."""
        code = short_code or f"!{uuid4().hex[:5].upper()}"
        organisation = Organisation(uuid4(), name, code, currency, country, timezone or TIMEZONES[country])
        self._world.organisations[organisation.tenant_id] = organisation
        return {"tenant": str(organisation.tenant_id)}

    def create_contact(
        self,
        name: str,
        email: str = "",
        person_emails: list[str] | None = None,
        tenant: TenantRef | None = None,
        phones: list[str] | None = None,
    ) -> dict[str, Any]:
        """Create a contact; `person_emails` are the email addresses of up to five contact persons."""
        organisation = self._organisation(tenant)
        if person_emails and len(person_emails) > 5:
            raise ActionError("a contact has at most five contact persons")
        contact = Contact(uuid4(), name, email, self._world.clock.now(), person_emails or [], phones=phones or [])
        organisation.contacts[contact.id] = contact
        self._contact_changed(organisation, contact, "CREATE")
        return {"contact": str(contact.id), "tenant": str(organisation.tenant_id)}

    def update_contact(
        self,
        contact: ContactRef,
        name: str | None = None,
        email: str | None = None,
        person_emails: list[str] | None = None,
        phones: list[str] | None = None,
    ) -> dict[str, Any]:
        """Change the name, the email address, the contact persons or the phone numbers of a contact."""
        organisation, xero_contact = self._contact(contact)
        xero_contact.name = xero_contact.name if name is None else name
        xero_contact.email = xero_contact.email if email is None else email
        xero_contact.person_emails = xero_contact.person_emails if person_emails is None else person_emails
        xero_contact.phones = xero_contact.phones if phones is None else phones
        self._contact_changed(organisation, xero_contact, "UPDATE")
        return {"contact": str(xero_contact.id)}

    def archive_contact(self, contact: ContactRef) -> dict[str, Any]:
        """Archive a contact; its invoices remain."""
        organisation, xero_contact = self._contact(contact)
        xero_contact.status = "ARCHIVED"
        self._contact_changed(organisation, xero_contact, "UPDATE")
        return {"contact": str(xero_contact.id)}

    def erase_contact(self, contact: ContactRef) -> dict[str, Any]:
        """Process a GDPR request: remove the contact's personal data and keep its invoices."""
        organisation, xero_contact = self._contact(contact)
        xero_contact.status, xero_contact.name, xero_contact.email, xero_contact.person_emails = (
            "GDPRREQUEST",
            "Removed",
            "",
            [],
        )
        xero_contact.phones = []
        self._contact_changed(organisation, xero_contact, "UPDATE")
        return {"contact": str(xero_contact.id)}

    def rename_organisation(
        self, tenant: TenantRef, name: str, short_code: str | None = None, timezone: str | None = None
    ) -> dict[str, Any]:
        """Rename an organisation and change its short code or time zone; no webhook is sent."""
        organisation = self._organisation(tenant)
        organisation.name = name
        organisation.timezone = timezone or organisation.timezone
        organisation.short_code = short_code or organisation.short_code
        return {"tenant": str(organisation.tenant_id)}

    def merge_contacts(self, source: ContactRef, target: ContactRef) -> dict[str, Any]:
        """Merge a contact into another: it is archived; its invoices and credits move there, otherwise unchanged."""
        organisation, merged_contact = self._contact(source)
        _, surviving_contact = self._contact(target)
        if (
            merged_contact is surviving_contact
            or merged_contact.merged_to
            or surviving_contact.merged_to
            or surviving_contact.id not in organisation.contacts
        ):
            raise ActionError("both must be unmerged contacts of the same organisation")
        merged_contact.status, merged_contact.merged_to = "ARCHIVED", surviving_contact.id
        documents: list[Invoice | Credit] = [*organisation.invoices.values(), *organisation.credits.values()]
        for document in documents:
            if document.contact_id == merged_contact.id:
                document.contact_id = surviving_contact.id
        self._contact_changed(organisation, merged_contact, "UPDATE")
        self._contact_changed(organisation, surviving_contact, "UPDATE")
        return {"contact": str(surviving_contact.id)}

    def create_invoice(
        self,
        contact: ContactRef,
        total: Decimal = Decimal("115.00"),
        type: Literal["ACCREC", "ACCPAY"] = "ACCREC",
        status: Literal["DRAFT", "SUBMITTED", "AUTHORISED"] = "AUTHORISED",
        number: str | None = None,
        currency: str | None = None,
        issued: date | None = None,
        due: date | None = None,
        reference: str = "",
    ) -> dict[str, Any]:
        """Create an invoice or a bill for a contact."""
        organisation, xero_contact = self._unmerged_contact(contact)
        if total < 0:
            raise ActionError("the total of an invoice cannot be negative")
        now = self._world.clock.now()
        if number is None:
            number = f"INV-{organisation.next_number:04d}" if type == "ACCREC" else ""
            organisation.next_number += 1
        issue_date = issued or now.date()
        invoice = Invoice(
            uuid4(),
            type,
            xero_contact.id,
            status,
            total,
            currency or organisation.currency,
            issue_date,
            now,
            number=number,
        )
        invoice.due_date = due or (None if status == "DRAFT" else issue_date + timedelta(days=30))
        invoice.reference = reference
        invoice.history = [HistoryEntry("Created", now)]
        organisation.invoices[invoice.id] = invoice
        self._invoice_changed(organisation, invoice, "CREATE", None)
        return {"invoice": str(invoice.id), "number": number}

    def update_invoice(
        self,
        invoice: InvoiceRef,
        total: Decimal | None = None,
        due: date | None = None,
        number: str | None = None,
        contact: ContactRef | None = None,
        issued: date | None = None,
        reference: str | None = None,
        expected_payment: date | None = None,
    ) -> dict[str, Any]:
        """Edit an invoice; `expected_payment` is when its payment is expected (of a bill: planned)."""
        organisation, xero_invoice = self._invoice(invoice)
        contact_id = self._contact(contact)[1].id if contact is not None else xero_invoice.contact_id
        if contact is not None and contact_id not in organisation.contacts:
            raise ActionError("the contact belongs to another organisation")
        if contact_id != xero_invoice.contact_id and xero_invoice.credited:
            raise ActionError("the contact of an invoice with credits cannot be changed")
        if total is not None and total < xero_invoice.paid + xero_invoice.credited:
            raise ActionError("the total would be less than the amount paid and credited")
        xero_invoice.total = xero_invoice.total if total is None else total
        xero_invoice.due_date = due or xero_invoice.due_date
        xero_invoice.issue_date = issued or xero_invoice.issue_date
        xero_invoice.number = xero_invoice.number if number is None else number
        xero_invoice.reference = xero_invoice.reference if reference is None else reference
        xero_invoice.expected_payment = expected_payment or xero_invoice.expected_payment
        xero_invoice.contact_id = contact_id
        self._invoice_changed(organisation, xero_invoice, "UPDATE", "Edited")
        return {"invoice": str(xero_invoice.id)}

    def approve_invoice(self, invoice: InvoiceRef) -> dict[str, Any]:
        """Approve a draft or submitted invoice."""
        organisation, xero_invoice = self._invoice(invoice)
        if xero_invoice.status not in {"DRAFT", "SUBMITTED"}:
            raise ActionError(f"a {xero_invoice.status} invoice cannot be approved")
        xero_invoice.status = "AUTHORISED"
        xero_invoice.due_date = xero_invoice.due_date or xero_invoice.issue_date + timedelta(days=30)
        self._invoice_changed(organisation, xero_invoice, "UPDATE", "Approved")
        return {"invoice": str(xero_invoice.id)}

    def pay_invoice(self, invoice: InvoiceRef, amount: Decimal | None = None, webhook: bool = True) -> dict[str, Any]:
        """Record a payment, of the full amount due unless an amount is given; `webhook=false` sends no webhook."""
        organisation, xero_invoice = self._invoice(invoice)
        paid = xero_invoice.due if amount is None else amount
        if xero_invoice.status not in {"AUTHORISED", "PAID"} or not 0 < paid <= xero_invoice.due:
            raise ActionError("only the amount due on an approved invoice can be paid")
        xero_invoice.paid += paid
        xero_invoice.payments.append(Payment(uuid4(), paid, self._world.clock.now().date()))
        if xero_invoice.due == 0:
            xero_invoice.status, xero_invoice.paid_on = "PAID", self._world.clock.now().date()
        self._invoice_changed(organisation, xero_invoice, "UPDATE", "Paid", webhook=webhook)
        return {"invoice": str(xero_invoice.id), "due": str(xero_invoice.due)}

    def void_invoice(self, invoice: InvoiceRef) -> dict[str, Any]:
        """Void an approved invoice without payments and credits."""
        organisation, xero_invoice = self._invoice(invoice)
        if xero_invoice.status != "AUTHORISED" or xero_invoice.paid or xero_invoice.credited:
            raise ActionError("only an approved invoice without payments and credits can be voided")
        xero_invoice.status = "VOIDED"
        self._invoice_changed(organisation, xero_invoice, "UPDATE", "Voided")
        return {"invoice": str(xero_invoice.id)}

    def delete_invoice(self, invoice: InvoiceRef) -> dict[str, Any]:
        """Delete a draft or submitted invoice."""
        organisation, xero_invoice = self._invoice(invoice)
        if xero_invoice.status not in {"DRAFT", "SUBMITTED"}:
            raise ActionError("only a draft or submitted invoice can be deleted")
        xero_invoice.status = "DELETED"
        self._invoice_changed(organisation, xero_invoice, "UPDATE", "Deleted")
        return {"invoice": str(xero_invoice.id)}

    def disconnect(self, tenant: TenantRef) -> dict[str, Any]:
        """Disconnect the app in Xero, which a user of the organisation can do at any time."""
        organisation, app = self._organisation(tenant), self._world.app
        app.connections = {
            key: connection
            for key, connection in app.connections.items()
            if connection.tenant_id != organisation.tenant_id
        }
        return {"tenant": str(organisation.tenant_id)}

    def revoke_scope(self, scope: str) -> dict[str, Any]:
        """Remove a scope from every authorisation of the app, as when Xero retires a scope."""
        authorisations = [
            authorisation
            for authorisation in self._world.app.authorisations.values()
            if scope in authorisation.scope.split()
        ]
        for authorisation in authorisations:
            authorisation.scope = " ".join(name for name in authorisation.scope.split() if name != scope)
        return {"authorisations": len(authorisations)}

    # Copper

    def add_account(self, name: str) -> dict[str, Any]:
        """Create a Copper account with one admin; returns its id, the API key and the admin's email address."""
        account_id = 1 + max(self._world.accounts, default=40_000)
        key = uuid4().hex
        admin = User(account_id * 10 + 1, "Sam Admin", f"sam@{account_id}.copper.test", key, True, [(1, "Sales")])
        self._world.accounts[account_id] = CopperAccount(account_id, name, [admin], next_id=account_id * 1000)
        return {"account": account_id, "api_key": key, "email": admin.email}

    def add_user(self, name: str, admin: bool = False, account: int | None = None) -> dict[str, Any]:
        """Add a user to a Copper account; an admin gets an API key."""
        copper_account = self._account(account)
        user_id = max(user.id for user in copper_account.users) + 1
        user = User(
            user_id, name, f"user{user_id}@{copper_account.id}.copper.test", uuid4().hex if admin else "", admin
        )
        user.groups = [(2, "Service")]
        copper_account.users.append(user)
        return {"user": user.id, "email": user.email, "api_key": user.api_key}

    def join_team(self, user: int, team: int, name: str = "Sales", account: int | None = None) -> dict[str, Any]:
        """Move a Copper user to a team; this replaces the user's teams."""
        copper_account = self._account(account)
        copper_user = next((candidate for candidate in copper_account.users if candidate.id == user), None)
        if copper_user is None:
            raise ActionError("there is no such user")
        copper_user.groups = [(team, name)]
        return {"user": user}

    def install_app(self, url: str, account: int | None = None) -> dict[str, Any]:
        """Embed an app in Copper's pages, as an admin does; returns the path of the page."""
        copper_account = self._account(account)
        copper_account.app_url = url
        return {"account": copper_account.id, "page": f"/copper/companies/{copper_account.id}/app"}

    def create_record(
        self,
        type: RecordType,
        name: str,
        emails: list[str] | None = None,
        company: int | None = None,
        primary_contact: int | None = None,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Add a lead, person, company or opportunity."""
        copper_account = self._account(account)
        if (type == "lead" and len(emails or []) > 1) or (type in {"company", "opportunity"} and emails):
            raise ActionError("a lead has one email address, a person any number, other types none")
        now = self._changes.seconds()
        record = Record(copper_account.allocate_id(), type, name, now, now, emails or [], company, primary_contact)
        record.status = "New" if type == "lead" else "Open"
        copper_account.records[type][record.id] = record
        self._changes.notify(copper_account, record, "new", {})
        return {"id": record.id, "account": copper_account.id}

    def update_record(
        self,
        type: RecordType,
        id: int,
        name: str | None = None,
        emails: list[str] | None = None,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Change the name or the email addresses of a record."""
        copper_account, record = self._record(type, id, account)
        changed: dict[str, Any] = {}
        if name is not None:
            changed["name"] = [record.name, name]
            record.name = name
        if emails is not None:
            changed["emails"] = [record.emails, emails]
            record.emails = emails
        self._changes.updated(copper_account, record, changed)
        return {"id": id}

    def set_field(
        self, type: RecordType, id: int, field: SettableField, value: Any, account: int | None = None
    ) -> dict[str, Any]:
        """Set a field of a record: set-field type=person id=7 field=tags 'value=["vip"]'."""
        copper_account, record = self._record(type, id, account)
        before = getattr(record, field)
        try:
            setattr(record, field, SETTABLE[field].validate_python(value))
        except ValidationError:
            raise ActionError(f"{value!r} is not valid for the field {field}") from None
        self._changes.updated(copper_account, record, {field: to_jsonable_python([before, getattr(record, field)])})
        return {"id": id}

    def move_person(self, person: int, company: int | None, account: int | None = None) -> dict[str, Any]:
        """Move a person to another company, or to no company."""
        copper_account, record = self._record("person", person, account)
        if company is not None and company not in copper_account.records["company"]:
            raise ActionError(f"there is no company {company}")
        changed = {"company_id": [record.company_id, company]}
        record.company_id = company
        self._changes.updated(copper_account, record, changed)
        return {"id": person}

    def set_primary_contact(self, opportunity: int, person: int | None, account: int | None = None) -> dict[str, Any]:
        """Set the primary contact of an opportunity, or remove it."""
        copper_account, record = self._record("opportunity", opportunity, account)
        changed = {"primary_contact_id": [record.primary_contact_id, person]}
        record.primary_contact_id = person
        self._changes.updated(copper_account, record, changed)
        return {"id": opportunity}

    def relate(
        self,
        type: RecordType,
        id: int,
        to_type: RecordType,
        to_id: int,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Relate two records; no webhook is sent."""
        copper_account, _ = self._record(type, id, account)
        self._record(to_type, to_id, account)
        pair = {type, to_type}
        if pair == {"person", "company"}:
            person, company = (id, to_id) if type == "person" else (to_id, id)
            copper_account.records["person"][person].company_id = company
        elif "opportunity" in pair and pair & {"person", "company"}:
            if (type, id, to_type, to_id) not in copper_account.relations:
                copper_account.relations.append((type, id, to_type, to_id))
        else:
            raise ActionError(f"a {type} cannot be related to a {to_type}")
        self._changes.revision += 1
        return {"id": id}

    def unrelate(
        self,
        type: RecordType,
        id: int,
        to_type: RecordType,
        to_id: int,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Remove a relation; no webhook is sent."""
        copper_account = self._account(account)
        ends = {(type, id, to_type, to_id), (to_type, to_id, type, id)}
        copper_account.relations = [relation for relation in copper_account.relations if relation not in ends]
        for end_type, end_id, other_type, other_id in ends:
            record = copper_account.records[end_type].get(end_id)
            if record and other_type == "company" and record.company_id == other_id:
                record.company_id = None
            if record and other_type == "person" and record.primary_contact_id == other_id:
                record.primary_contact_id = None
        self._changes.revision += 1
        return {"id": id}

    def delete_record(self, type: RecordType, id: int, account: int | None = None) -> dict[str, Any]:
        """Delete a record and its relations; only the record's deletion sends a webhook."""
        copper_account, record = self._record(type, id, account)
        self._remove(copper_account, record)
        return {"id": id}

    def merge_records(self, type: RecordType, source: int, target: int, account: int | None = None) -> dict[str, Any]:
        """Merge two records of a type: the source is deleted, and its email addresses move to the target."""
        copper_account, merged_record = self._record(type, source, account)
        _, surviving_record = self._record(type, target, account)
        if merged_record is surviving_record:
            raise ActionError("a record cannot be merged into itself")
        emails = [
            *surviving_record.emails,
            *(email for email in merged_record.emails if email not in surviving_record.emails),
        ]
        surviving_record.emails = emails[:1] if type == "lead" else emails
        self._move_relations(copper_account, merged_record, surviving_record)
        self._remove(copper_account, merged_record)
        self._changes.updated(copper_account, surviving_record, {"emails": [[], surviving_record.emails]})
        return {"id": target}

    def convert_lead(
        self,
        lead: int,
        company: str | None = None,
        opportunity: str | None = None,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Convert a lead into a person, and into a company and an opportunity if they are named."""
        copper_account, record = self._record("lead", lead, account)
        created: dict[str, Any] = {"company": None, "opportunity": None}
        if company:
            created["company"] = self.create_record("company", company, account=copper_account.id)["id"]
        person = self.create_record("person", record.name, record.emails, created["company"], account=copper_account.id)
        created["person"] = person["id"]
        if opportunity:
            created["opportunity"] = self.create_record(
                "opportunity",
                opportunity,
                company=created["company"],
                primary_contact=created["person"],
                account=copper_account.id,
            )["id"]
        self._remove(copper_account, record)
        return created

    def _move_relations(self, copper_account: CopperAccount, merged_record: Record, surviving_record: Record) -> None:
        """Move the relations of a merged record to the surviving one; as for all relations, no webhook is sent."""
        record_type = merged_record.type

        def moved(end: tuple[str, int]) -> tuple[str, int]:
            return (record_type, surviving_record.id) if end == (record_type, merged_record.id) else end

        copper_account.relations = [
            (*moved((relation[0], relation[1])), *moved((relation[2], relation[3])))
            for relation in copper_account.relations
        ]
        for record in (*copper_account.records["person"].values(), *copper_account.records["opportunity"].values()):
            if record_type == "company" and record.company_id == merged_record.id:
                record.company_id = surviving_record.id
            if record_type == "person" and record.primary_contact_id == merged_record.id:
                record.primary_contact_id = surviving_record.id

    def _remove(self, copper_account: CopperAccount, record: Record) -> None:
        del copper_account.records[record.type][record.id]
        copper_account.relations = [
            relation
            for relation in copper_account.relations
            if (record.type, record.id) not in {(relation[0], relation[1]), (relation[2], relation[3])}
        ]
        for record_type in ("person", "opportunity"):
            for other_record in copper_account.records[record_type].values():
                if record.type == "company" and other_record.company_id == record.id:
                    other_record.company_id = None
                if record.type == "person" and other_record.primary_contact_id == record.id:
                    other_record.primary_contact_id = None
        self._changes.notify(copper_account, record, "delete", {})
