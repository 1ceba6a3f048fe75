"""E-mail domains at which anybody can have an address, so that a shared domain means nothing."""

from __future__ import annotations

FREE_EMAIL_DOMAINS = frozenset(
    {
        *("aol.com", "comcast.net", "fastmail.com", "free.fr", "gmail.com", "gmx.com", "gmx.de", "gmx.net"),
        *("googlemail.com", "hey.com", "hotmail.co.uk", "hotmail.com", "hotmail.fr", "icloud.com", "libero.it"),
        *("live.com", "mac.com", "mail.com", "mail.ru", "me.com", "msn.com", "orange.fr", "outlook.com", "pm.me"),
        *("proton.me", "protonmail.com", "qq.com", "t-online.de", "web.de", "xtra.co.nz", "yahoo.co.uk"),
        *("yahoo.com", "yahoo.fr", "yandex.ru", "zoho.com", "bigpond.com", "btinternet.com"),
        *("163.com", "126.com", "att.net", "bellsouth.net", "bigpond.net.au", "bluewin.ch", "charter.net"),
        *("cox.net", "duck.com", "earthlink.net", "freenet.de", "gmx.at", "gmx.ch", "hotmail.be", "hotmail.ca"),
        *("hotmail.com.au", "hotmail.de", "hotmail.es", "hotmail.it", "hushmail.com", "iinet.net.au", "inbox.com"),
        *("laposte.net", "live.ca", "live.co.uk", "live.com.au", "live.fr", "live.nl", "naver.com", "ntlworld.com"),
        *("optonline.net", "optusnet.com.au", "orange.net", "outlook.co.nz", "outlook.com.au", "outlook.de"),
        *("outlook.fr", "rediffmail.com", "rogers.com", "rocketmail.com", "sbcglobal.net", "sfr.fr", "shaw.ca"),
        *("sky.com", "slingshot.co.nz", "talktalk.net", "tiscali.co.uk", "tiscali.it", "tutanota.com"),
        *("verizon.net", "virginmedia.com", "vodafone.co.nz", "wanadoo.fr", "yahoo.ca", "yahoo.co.in"),
        *("yahoo.co.jp", "yahoo.co.nz", "yahoo.com.au", "yahoo.com.br", "yahoo.de", "yahoo.es", "yahoo.it"),
        *("yandex.com", "ymail.com", "zohomail.com"),
    }
)
FREE_DOMAINS = ", ".join(f"'{domain}'" for domain in sorted(FREE_EMAIL_DOMAINS))


def is_own_domain(column: str) -> str:
    """SQL: whether a domain belongs to an organisation, not to a mail provider."""
    return f"{column} NOT IN ({FREE_DOMAINS})"
