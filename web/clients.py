"""The kind of browser behind a request, in words that a person recognises: "Firefox on Linux", and no more."""

from __future__ import annotations

from fastapi import Request

UNKNOWN = "Unknown browser"
MAX_USER_AGENT = 500
# By the words of the user agent; the first that occurs counts, as later ones pretend to be others as well.
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


def client_of(request: Request) -> str:
    """The kind of browser and its system. What it says of itself is a hint for people, and nothing depends on it."""
    agent = request.headers.get("user-agent", "")[:MAX_USER_AGENT]
    browser = next((name for word, name in BROWSERS if word in agent), UNKNOWN)
    system = next((name for word, name in SYSTEMS if word in agent), "")
    return f"{browser} on {system}" if system else browser
