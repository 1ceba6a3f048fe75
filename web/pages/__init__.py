"""The pages that an admin looks at: status, records, lists, settings, keys, sessions, the trail, set-up, leaving."""

from fastapi import APIRouter, Depends

from web.pages import account, connect, keys, lists, panel_confirmation, records, render, sessions, settings, status

router = APIRouter(include_in_schema=False, dependencies=[Depends(render.meet)])
for part in (connect, panel_confirmation, status, records, lists, settings, keys, sessions, account):
    router.include_router(part.router)
