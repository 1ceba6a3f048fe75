"""Admin pages: sign-in and set-up, status, records, receivables, settings, API keys, sessions, the audit log."""

from fastapi import APIRouter, Depends

from web.admin import (
    account,
    connect,
    contact_links,
    keys,
    lists,
    panel_confirmation,
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
for module in (
    *(connect, panel_confirmation, status, records, lists, unmatched, contact_links),
    *(settings, keys, sessions, account),
):
    router.include_router(module.router)
