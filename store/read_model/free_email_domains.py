"""E-mail domains at which anybody can have an address, so that a shared domain means nothing."""

from __future__ import annotations

FREE_EMAIL_DOMAINS = frozenset(
    {
        *("aol.com", "comcast.net", "fastmail.com", "free.fr", "gmail.com", "gmx.com", "gmx.de", "gmx.net"),
        *("googlemail.com", "hey.com", "hotmail.co.uk", "hotmail.com", "hotmail.fr", "icloud.com", "libero.it"),
        *("live.com", "mac.com", "mail.com", "mail.ru", "me.com", "msn.com", "orange.fr", "outlook.com", "pm.me"),
        *("proton.me", "protonmail.com", "qq.com", "t-online.de", "web.de", "xtra.co.nz", "yahoo.co.uk"),
        *("yahoo.com", "yahoo.fr", "yandex.ru", "zoho.com", "bigpond.com", "btinternet.com"),
    }
)
