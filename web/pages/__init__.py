"""The pages that an admin looks at: status, records, lists, settings, keys, sessions, the trail, set-up, leaving."""

from fastapi import APIRouter, Depends

from web.page_limits import count_session, take_place
from web.pages import account, connect, keys, lists, panel_confirmation, records, render, sessions, settings, status

LIMITS = [Depends(count_session), Depends(render.meet), Depends(take_place, scope="function")]
router = APIRouter(include_in_schema=False, dependencies=LIMITS)
for part in (connect, panel_confirmation, status, records, lists, settings, keys, sessions, account):
    router.include_router(part.router)
