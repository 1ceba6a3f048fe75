"""Custom fields in Copper: what is written to which records, and how far that is."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.datastructures import FormData

from services import copper_fields
from store.db.enums import FieldMeasure, FieldWriting, RecordType
from web.admin import forms
from web.admin.forms import FormState
from web.admin.render import redirect, render_page
from web.auth import browser
from web.presentation import labels, locales
from worker.jobs import actors
from worker.jobs.enqueue import enqueue_once
from worker.vendors.copper.fields import name_of

router = APIRouter()
PATH = "/settings/fields"
MAX_CURRENCIES = 10
MESSAGES = {
    "measure": "Select at least one field.",
    "currency": f"Select 1 to {MAX_CURRENCIES} currencies for the amounts.",
    "record_type": "Select at least one record type.",
    "action": "Choose what to do with the fields.",
}
NOTICES = {
    "save": "Fields saved. Patina writes them in the background.",
    "clear": "Patina is emptying its fields in Copper.",
    "stop": "Patina no longer writes to Copper. The fields keep their last values.",
    "retry": "Patina tries again now.",
}


class Action(StrEnum):
    """What the pressed button does."""

    SAVE = "save"
    CLEAR = "clear"
    STOP = "stop"
    RETRY = "retry"


class FieldsForm(BaseModel):
    """The form; browsers do not send unchecked boxes."""

    measure: list[FieldMeasure] = []
    currency: list[str] = []
    record_type: list[RecordType] = []
    action: Action = Action.SAVE

    def consistency_errors(self, currencies: set[str]) -> dict[str, str]:
        """Errors by field that only the combination of fields, or the account's currencies, show."""
        errors = {}
        if not self.measure:
            errors["measure"] = MESSAGES["measure"]
        has_amounts = any(measure.is_amount for measure in self.measure)
        selected = set(self.currency)
        if not selected <= currencies or len(selected) > MAX_CURRENCIES or (has_amounts and not selected):
            errors["currency"] = MESSAGES["currency"]
        if not self.record_type:
            errors["record_type"] = MESSAGES["record_type"]
        return errors


@router.get(PATH)
def show_fields(request: Request) -> Response:
    """The fields, and how far writing them is."""
    return _fields_page(request, forms.EMPTY_FORM)


def _fields_page(request: Request, form: FormState) -> Response:
    account_id = browser.require_admin(request.state.browser).account_id
    status, records = copper_fields.get_status(account_id), copper_fields.count_candidates(account_id)
    currencies = copper_fields.list_currencies(account_id)
    selected = [field for field in status.fields if field.is_selected]
    is_on = status.settings.state is FieldWriting.ON
    selected_currencies = {field.currency for field in selected if field.currency}
    return render_page(
        request,
        "copper_fields.html",
        status=422 if form.has_errors else 200,
        form=form,
        state=status.settings.state.value,
        stop_reason=status.settings.error,
        progress=status.progress,
        failed=status.failed,
        max_failed=copper_fields.MAX_FAILED,
        fields=[(field, name_of(field)) for field in selected if is_on],
        measure_labels=labels.MEASURE_LABELS,
        measures={field.measure for field in selected} if is_on else set(labels.DEFAULT_MEASURES),
        currencies=currencies,
        selected_currencies=selected_currencies if is_on else set(currencies[:1]),
        record_types=status.settings.record_types if is_on else tuple(RecordType),
        records=records,
        minutes={
            record_type: copper_fields.estimate_minutes(record_type, count) for record_type, count in records.items()
        },
        locale=locales.negotiate(request),
    )


@router.post(PATH)
def change_fields(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Save the selected fields, turn writing off, or try again."""
    browser_session = browser.require_admin(request.state.browser)
    account_id, actor = browser_session.account_id, browser_session.user_name
    submitted = forms.parse_form(FieldsForm, form, MESSAGES)
    if isinstance(submitted, dict):
        return _fields_page(request, forms.rejected_form(form, submitted))
    if submitted.action is Action.SAVE:
        errors = submitted.consistency_errors(set(copper_fields.list_currencies(account_id)))
        if errors:
            return _fields_page(request, forms.rejected_form(form, errors))
        copper_fields.turn_on(account_id, submitted.measure, submitted.currency, submitted.record_type, actor=actor)
    elif submitted.action is Action.RETRY:
        copper_fields.retry(account_id, actor=actor)
    else:
        copper_fields.turn_off(account_id, is_cleared=submitted.action is Action.CLEAR, actor=actor)
    enqueue_once(actors.write_fields, account_id)
    return redirect(request, PATH, notice=NOTICES[submitted.action])
