"""Actions on Copper's custom fields, and how an account responds to writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import Field

from sandbox.action_base import ActionError
from sandbox.copper_action_base import CopperActionBase, RecordType
from sandbox.copper_changes import set_custom_values
from sandbox.custom_fields import (
    CustomFieldError,
    DataType,
    DefinitionChange,
    DefinitionLimitError,
    FieldOwner,
    FieldValue,
    NewDefinition,
    NewOption,
    change_definition,
    checked_values,
    create_definition,
    delete_definition,
)
from sandbox.world import CopperAccount, CustomField, WriteRules

FieldName = Annotated[str, Field(min_length=1)]


@contextmanager
def _refused_as_action() -> Iterator[None]:
    """What the API refuses, a user cannot do either."""
    try:
        yield
    except (CustomFieldError, DefinitionLimitError) as error:
        raise ActionError(str(error)) from None


class CustomFieldActions(CopperActionBase):
    """Simulates admins who manage custom fields and users who fill them, in Copper's web app."""

    def define_field(
        self,
        name: FieldName,
        data_type: DataType,
        available_on: list[FieldOwner],
        currency: str | None = None,
        canonical_name: FieldName | None = None,
        is_filterable: bool = False,
        options: list[FieldName] | None = None,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Define a custom field of a Copper account; returns its id. `options` are the names of a list's options."""
        copper_account = self._account(account)
        new = NewDefinition(
            name=name,
            data_type=data_type,
            available_on=available_on,
            currency=currency,
            canonical_name=canonical_name,
            is_filterable=is_filterable,
            options=[NewOption(name=option) for option in options or []],
        )
        with _refused_as_action():
            return {"field": create_definition(copper_account, new).id}

    def update_field(
        self,
        field: int,
        name: FieldName | None = None,
        available_on: list[FieldOwner] | None = None,
        is_filterable: bool | None = None,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Rename a custom field, or change the record types that have it, or whether lists are filtered by it."""
        copper_account, definition = self._definition(field, account)
        values = {"name": name, "available_on": available_on, "is_filterable": is_filterable}
        change = DefinitionChange.model_validate({key: value for key, value in values.items() if value is not None})
        change_definition(copper_account, definition, change)
        return {"field": field}

    def retype_field(
        self, field: int, data_type: DataType, currency: str | None = None, account: int | None = None
    ) -> dict[str, Any]:
        """Delete a custom field and define it again with the same key and another type; returns its new id.

        The values of the deleted field vanish; no webhook is sent.
        """
        copper_account, definition = self._definition(field, account)
        kept_names = ("name", "available_on", "canonical_name", "is_filterable")
        values = {name: getattr(definition, name) for name in kept_names}
        new = NewDefinition.model_validate({**values, "data_type": data_type, "currency": currency})
        with _refused_as_action():
            return {"field": create_definition(copper_account, new, replaced=definition).id}

    def delete_field(self, field: int, account: int | None = None) -> dict[str, Any]:
        """Delete a custom field and its values; no webhook is sent."""
        copper_account, definition = self._definition(field, account)
        delete_definition(copper_account, definition)
        return {"field": field}

    def set_custom_field(
        self, type: RecordType, id: int, field: int, value: Any = None, account: int | None = None
    ) -> dict[str, Any]:
        """Set a custom field of a record, or clear it if no value is given. A date is mm/dd/yyyy."""
        copper_account, record = self._record(type, id, account)
        item = FieldValue(custom_field_definition_id=field, value=value)
        with _refused_as_action():
            changed = set_custom_values(copper_account, record, checked_values(copper_account, type, [item]))
        if changed:
            self._changes.updated(copper_account, record, changed)
        return {"id": id}

    def set_write_rules(
        self,
        max_definitions: Annotated[int | None, Field(ge=0)] = None,
        bulk_size: Annotated[int, Field(ge=1)] = 10,
        bulk_for_all_types: bool = False,
        updated_attributes: bool = True,
        account: int | None = None,
    ) -> dict[str, Any]:
        """Set how an account responds to writes; what is not given returns to its default.

        `max_definitions`: how many custom fields its plan allows. `bulk_size`: how many records a bulk update may have.
        `bulk_for_all_types`: companies and opportunities have bulk updates, too. Without `updated_attributes`,
        notifications of updates do not say what changed.
        """
        copper_account = self._account(account)
        refused_writes = copper_account.write_rules.refused_writes
        copper_account.write_rules = WriteRules(
            max_definitions, bulk_size, bulk_for_all_types, updated_attributes, refused_writes
        )
        return {"account": copper_account.id}

    def refuse_writes(
        self,
        type: RecordType,
        id: int,
        message: str | None = "Validation failed",
        account: int | None = None,
    ) -> dict[str, Any]:
        """Refuse every write of a record through the API, with 422 and a message; message=null allows them again."""
        copper_account, record = self._record(type, id, account)
        refused_writes = copper_account.write_rules.refused_writes[type]
        refused_writes.pop(record.id, None)
        if message is not None:
            refused_writes[record.id] = message
        return {"id": id}

    def _definition(self, field: int, account: int | None) -> tuple[CopperAccount, CustomField]:
        copper_account = self._account(account)
        definition = copper_account.custom_fields.get(field)
        if definition is None:
            raise ActionError(f"there is no custom field {field}")
        return copper_account, definition
