"""The routes of the web process, including those of nested routers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

PARAMETER = re.compile(r"\{[^}]+\}")


def every_route(router: Any) -> Iterator[BaseRoute]:
    """The routes of an app or router, including those of its included routers."""
    for route in router.routes:
        if (included := getattr(route, "original_router", None)) is not None:
            yield from every_route(included)
        else:
            yield route


def documented_routes(router: Any) -> Iterator[APIRoute]:
    """The routes with documented parameters."""
    return (route for route in every_route(router) if isinstance(route, APIRoute))


def every_path(router: Any) -> list[str]:
    """The paths of all routes except mounted folders, with 1 for each parameter."""
    paths = {str(getattr(route, "path", "")) for route in every_route(router)}
    return sorted(PARAMETER.sub("1", path) for path in paths if path and not path.startswith("/static"))
