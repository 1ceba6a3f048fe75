"""Every route of the web process, however its routers are nested."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

PARAMETER = re.compile(r"\{[^}]+\}")


def every_route(router: Any) -> Iterator[BaseRoute]:
    """The routes of an app or router, those of the routers that it includes among them."""
    for route in router.routes:
        if (included := getattr(route, "original_router", None)) is not None:
            yield from every_route(included)
        else:
            yield route


def documented_routes(router: Any) -> Iterator[APIRoute]:
    """Those that name their parameters."""
    return (route for route in every_route(router) if isinstance(route, APIRoute))


def every_path(router: Any) -> list[str]:
    """The paths of all routes but mounted folders, with 1 for each parameter."""
    paths = {str(getattr(route, "path", "")) for route in every_route(router)}
    return sorted(PARAMETER.sub("1", path) for path in paths if path and not path.startswith("/static"))
