"""The pages that an admin looks at: connect, settings, progress, keys, the trail, disconnect."""

from fastapi import APIRouter, Depends

from web.pages import account, connect, keys, render, settings

router = APIRouter(include_in_schema=False, dependencies=[Depends(render.meet)])
for part in (connect, settings, keys, account):
    router.include_router(part.router)
