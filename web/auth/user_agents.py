"""A short label for the browser that sent a request, such as "Firefox on Linux"."""

from __future__ import annotations

from fastapi import Request

UNKNOWN = "Unknown browser"
MAX_USER_AGENT = 500
# Tokens of the user agent. The first match counts, because browsers also claim to be the ones further down.
BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("CriOS/", "Chrome"),
    ("Safari/", "Safari"),
)
SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


def browser_label(request: Request) -> str:
    """The browser and its operating system; for display only, because a user agent proves nothing."""
    user_agent = request.headers.get("user-agent", "")[:MAX_USER_AGENT]
    browser = next((name for token, name in BROWSERS if token in user_agent), UNKNOWN)
    system = next((name for token, name in SYSTEMS if token in user_agent), "")
    return f"{browser} on {system}" if system else browser
