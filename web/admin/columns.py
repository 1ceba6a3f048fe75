"""The columns of a record's invoices, and their order."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.datastructures import FormData

from store.accounts import account_settings, audit
from store.accounts.account_settings import DEFAULT_COLUMNS
from store.db.database import account_transaction
from store.db.enums import InvoiceColumn
from web.admin import forms
from web.admin.render import redirect, render_page
from web.auth import browser
from web.presentation import labels
from web.presentation.invoice_rows import fit_in_table
from web.presentation.problems import ProblemError

router = APIRouter()
PATH = "/settings/columns"
MESSAGES = dict.fromkeys(("column", "action"), "Choose from the columns in the list.")


class Action(StrEnum):
    """What the form's button does. Moving a column saves the other changes of the form, too."""

    SAVE = "save"
    RESTORE = "restore"
    UP = "up"
    DOWN = "down"


class ColumnsForm(BaseModel):
    """The form: the columns that are ticked, in their order, and the button, which may name a column to move."""

    column: list[InvoiceColumn] = []
    action: str = Action.SAVE

    def columns(self) -> tuple[InvoiceColumn, ...]:
        """The columns after the form's action: without duplicates, the number first."""
        action, _, moved = self.action.partition(":")
        if Action(action) is Action.RESTORE:
            return DEFAULT_COLUMNS
        columns: list[InvoiceColumn] = [column for column in dict.fromkeys(self.column) if column != DEFAULT_COLUMNS[0]]
        if moved in columns:
            position = [column.value for column in columns].index(moved)
            target = position + (-1 if Action(action) is Action.UP else 1)
            columns.insert(max(target, 0), columns.pop(position))
        return (InvoiceColumn.NUMBER, *columns)


@router.get(PATH)
def show_columns(request: Request) -> Response:
    """The columns, the shown ones first."""
    browser_session = browser.require_admin(request.state.browser)
    with account_transaction(browser_session.account_id) as session:
        current = account_settings.get(session, browser_session.account_id).shown_columns
    return render_page(
        request,
        "columns.html",
        shown=current,
        columns=[*current, *(column for column in InvoiceColumn if column not in current)],
        column_labels=labels.COLUMN_LABELS,
        fits=fit_in_table(current),
    )


@router.post(PATH)
def save_columns(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Save the columns; they apply the next time a record is opened."""
    browser_session = browser.require_admin(request.state.browser)
    submitted = forms.parse_form(ColumnsForm, form, MESSAGES)
    if isinstance(submitted, dict):
        raise ProblemError(422, next(iter(submitted.values())))
    try:
        columns = submitted.columns()
    except ValueError:
        raise ProblemError(422, MESSAGES["action"]) from None
    with account_transaction(browser_session.account_id) as session:
        before = account_settings.get(session, browser_session.account_id)
        if columns != before.shown_columns:
            account_settings.update(session, browser_session.account_id, replace(before, shown_columns=columns))
            detail = "columns: " + ", ".join(labels.COLUMN_LABELS[column].lower() for column in columns)
            audit.record(session, browser_session.account_id, browser_session.user_name, "settings.changed", detail)
    return redirect(request, PATH, notice="Columns saved.")
