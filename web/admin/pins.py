"""Pinning invoices to opportunities: from an invoice's page, and from an opportunity's."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.datastructures import FormData

from services import invoice_pins
from store.read_model.invoice_pins import PinError
from web.admin import forms, searches
from web.admin.forms import WholeNumber
from web.admin.invoices import PATH, invoice_page
from web.admin.render import redirect
from web.admin.searches import Topic
from web.auth import browser
from web.presentation.problems import ProblemError

router = APIRouter()
MAX_SEARCH_LENGTH = 200
PIN_MESSAGES = {
    "invoice": "This isn't an invoice.",
    "opportunity": "Enter a numeric Copper ID.",
    "source": "Pin from the page of an invoice or of an opportunity.",
}


class PinForm(BaseModel):
    """An invoice, an opportunity, and the page that the form is on."""

    invoice: UUID
    opportunity: WholeNumber
    source: Literal["invoice", "opportunity"] = "invoice"

    @property
    def path(self) -> str:
        """The page that the form is on."""
        if self.source == "invoice":
            return f"{PATH}/{self.invoice}#pins"
        return f"/records/opportunity/{self.opportunity}"


def parse_pin_form(form: Annotated[FormData, Depends(browser.read_form)]) -> PinForm:
    """A dependency: the form; raises a 422 problem if it is invalid."""
    pin_form = forms.parse_form(PinForm, form, PIN_MESSAGES)
    if isinstance(pin_form, dict):
        raise ProblemError(422, next(iter(pin_form.values())))
    return pin_form


CurrentPinForm = Annotated[PinForm, Depends(parse_pin_form)]


@router.post("/pins")
def pin_invoice(request: Request, pin_form: CurrentPinForm) -> Response:
    """Pin an invoice to an opportunity."""
    browser_session = browser.require_admin(request.state.browser)
    try:
        is_new = invoice_pins.create(
            browser_session.account_id, pin_form.invoice, pin_form.opportunity, actor=browser_session.user_name
        )
    except PinError as error:
        raise ProblemError(422, f"{error} Nothing was pinned.") from None
    return redirect(request, pin_form.path, notice="Pinned. It appears in a moment." if is_new else "")


@router.post("/pins/remove")
def unpin_invoice(request: Request, pin_form: CurrentPinForm) -> Response:
    """Unpin an invoice."""
    browser_session = browser.require_admin(request.state.browser)
    was_pinned = invoice_pins.remove(
        browser_session.account_id, pin_form.invoice, pin_form.opportunity, actor=browser_session.user_name
    )
    return redirect(request, pin_form.path, notice="Unpinned." if was_pinned else "")


@router.post(f"{PATH}/{{invoice_id}}/opportunities")
def search_opportunities(
    request: Request, invoice_id: UUID, form: Annotated[FormData, Depends(browser.read_form)]
) -> Response:
    """Redirect to the invoice's page with the opportunities of a search, whose text is encrypted in the URL."""
    browser_session = browser.require_admin(request.state.browser)
    text = forms.clean_line(str(form.get("q", "")))
    if not text or len(text) > MAX_SEARCH_LENGTH:
        message = f"This search is too long. Use at most {MAX_SEARCH_LENGTH} characters."
        errors = {"q": message if text else "Enter the name or the Copper ID of an opportunity."}
        return invoice_page(request, invoice_id, form=forms.rejected_form(form, errors))
    encrypted = searches.encrypt(Topic.OPPORTUNITIES, browser_session.account_id, text)
    return redirect(request, f"{PATH}/{invoice_id}?search={encrypted}#pins")


@router.get(f"{PATH}/{{invoice_id}}/opportunities")
def show_invoice_again(request: Request, invoice_id: UUID) -> Response:
    """Redirect to the invoice's page: a reload after a refused search, or a visit from the history."""
    return redirect(request, f"{PATH}/{invoice_id}")
