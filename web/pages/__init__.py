"""The pages that an admin looks at: status, records, lists, settings, keys, the trail, connecting and leaving."""

from fastapi import APIRouter, Depends

from web.pages import account, connect, keys, lists, panel_confirmation, records, render, settings, status

router = APIRouter(include_in_schema=False, dependencies=[Depends(render.meet)])
for part in (connect, panel_confirmation, status, records, lists, settings, keys, account):
    router.include_router(part.router)
