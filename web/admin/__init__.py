"""Admin pages: sign-in and set-up, status, records, receivables, settings, API keys, sessions, the audit log."""

from fastapi import APIRouter, Depends

from web.admin import (
    account,
    columns,
    connect,
    contact_links,
    copper_fields,
    customer_links,
    invoices,
    keys,
    panel_confirmation,
    pins,
    receivables,
    records,
    render,
    sessions,
    settings,
    status,
    unmatched,
)
from web.admin.page_limits import acquire_page_slot, limit_session_pages

DEPENDENCIES = [
    Depends(limit_session_pages),
    Depends(render.load_browser),
    Depends(acquire_page_slot, scope="function"),
]
router = APIRouter(include_in_schema=False, dependencies=DEPENDENCIES)
MODULES = (
    *(connect, panel_confirmation, status, records, receivables, invoices, pins, unmatched, contact_links),
    *(customer_links, settings, columns, copper_fields, keys, sessions, account),
)
for module in MODULES:
    router.include_router(module.router)
