"""Names as they are compared for suggestions: without case, accents, punctuation and legal forms."""

from __future__ import annotations

import re
import unicodedata

MAX_KEY = 200
WORD = re.compile(r"[^\W_]+")
# `G.m.b.H.` and `gmbh`, `O'Neil` and `ONeil` are the same word.
INSIDE_WORDS = re.compile(r"[.'\u2018\u2019]")
LEGAL_FORMS = frozenset(
    {
        *("ltd", "limited", "inc", "incorporated", "llc", "llp", "lp", "plc", "corp", "corporation", "co", "company"),
        *("pty", "pte", "pvt", "private", "proprietary", "gmbh", "mbh", "ag", "kg", "ohg", "ug", "ek", "se", "sa"),
        *("sas", "sarl", "srl", "spa", "bv", "nv", "ab", "as", "asa", "aps", "oy", "oyj", "kk", "lda", "ltda", "and"),
    }
)
"""Words that end a company's name without distinguishing it; `and` is left of "GmbH & Co. KG"."""


def name_key(name: str) -> str:
    """What two spellings of a name have in common, of at most 200 characters: "acme" for "ACME Ltd." and "Acme, Inc".

    The first word always stays. A name without letters and digits has the key '', which equals no other.
    """
    decomposed = unicodedata.normalize("NFKD", name).casefold()
    text = "".join(char for char in decomposed if not unicodedata.combining(char))
    words = WORD.findall(INSIDE_WORDS.sub("", text).replace("&", " and "))
    while len(words) > 1 and words[-1] in LEGAL_FORMS:
        words.pop()
    return " ".join(words)[:MAX_KEY]
