"""Which words the product's code is written in: `make vocabulary`.

Prints how often each word occurs in the identifiers that the product's own code defines, most frequent first, then
every use of a banned word with the term to use instead. Exit 1 when a banned word occurs. `docs/glossary.md` defines
the terms.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("cli", "web", "webhooks", "services", "worker", "store", "runtime")
PROSE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "web/templates/*.html", "docs/monitoring/*")
TOP = 40

# Words that say nothing about a program's subject, and are not counted.
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and as at by for from if in into is has have not of on or per the to up with id ids name names get set"
        " new value values text str int self cls args kwargs max min default first last next all any",
    )
)

# As a whole identifier: what to use instead.
BANNED_NAMES = {
    "one": "the thing itself: invoice, run, key",
    "found": "the thing that was found: row, match",
    "told": "payload, message",
    "said": "message, detail",
    "heard": "payload",
    "chosen": "params, selected",
    "place": "organisation, scope, index",
    "held": "lease, grant",
    "asked": "request, requested",
    "wanted": "requested, expected",
    "kept": "accepted, stored",
    "shown": "the thing that is shown",
    "here": "in_process",
    "alive": "is_alive, vendor_responding",
    "moot": "obsolete",
    "whose": "owner",
    "taken": "the thing that was taken",
    "begun": "started_at",
    "most": "MAX_..., limit",
    "least": "MIN_...",
    "longest": "MAX_...",
    "fresh": "the thing that is fresh",
    "trouble": "error",
    "untold": "publish_failed",
    "waits": "has_pending",
}

# As a part of an identifier, between underscores.
BANNED_PARTS = {
    "told": "message, payload",
    "said": "message",
    "heard": "received",
    "chore": "scheduled_task",
    "leftover": "cleanup_task",
    "bury": "tombstone",
    "buried": "tombstoned",
    "heir": "merge_target",
    "heirs": "merge_targets",
    "cope": "handle",
    "begun": "started",
    "forgotten": "deleted",
    "troubles": "errors",
    "whale": "large_account",
    "moot": "obsolete",
}

# In prose: documentation, pages, docstrings and comments.
BANNED_PHRASES = {
    r"\bwhence\b": "from where",
    r"\bcomes? again by itself\b": "refreshes automatically",
    r"\btells? of\b": "reports",
    r"\bis told of\b": "is reported",
    r"\bhold(?:s|ing)? (?:everything|all of it|the mirror) against\b": "compares ... with",
    r"\bwhat waits\b": "the backlog",
    r"\blet be\b": "dismiss",
    r"\bwho may (?:look|come in)\b": "authorisation",
    r"\ball is well\b": "healthy",
    r"\ball well\b": "healthy",
    r"\bhow far (?:it|they) (?:is|are)\b": "progress",
    r"\bwhale\b": "very large account",
    r"\bmoot\b": "obsolete",
    r"\bgiven up\b": "abandoned",
    r"\bnobody is told\b": "no notification is sent",
    r"\bby and by\b": "gradually",
    r"\bgo(?:es)? on from there\b": "resumes",
}


@dataclass(frozen=True)
class Finding:
    """A banned word at a line of a file."""

    path: Path
    line: int
    word: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.word!r}: use {self.instead}"


def source_files() -> list[Path]:
    """The product's Python files."""
    files = [path for package in PRODUCT for path in (ROOT / package).rglob("*.py")]
    return sorted(files)


def defined_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every identifier that a module defines itself, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, node.lineno
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, node.lineno


def parts(identifier: str) -> list[str]:
    """The words of an identifier, in lower case."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier)
    return [part for part in spaced.lower().split("_") if part]


def banned_names(path: Path, definitions: Iterable[tuple[str, int]]) -> Iterator[Finding]:
    """The banned ones of the identifiers that a module defines."""
    for name, line in definitions:
        if instead := BANNED_NAMES.get(name.lower().strip("_")):
            yield Finding(path, line, name, instead)
        else:
            yield from (Finding(path, line, name, BANNED_PARTS[part]) for part in parts(name) if part in BANNED_PARTS)


def banned_phrases(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[Finding]:
    """The banned phrases in numbered lines of prose."""
    for number, line in lines:
        for pattern, instead in BANNED_PHRASES.items():
            if match := re.search(pattern, line, re.IGNORECASE):
                yield Finding(path, number, match[0], instead)


def prose_of_code(source: str) -> Iterator[tuple[int, str]]:
    """The comments and strings of a Python file, with their lines."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield from enumerate(token.string.splitlines(), token.start[0])


def check() -> tuple[Counter[str], list[Finding]]:
    """Word frequencies in the product's identifiers, and all findings."""
    frequencies: Counter[str] = Counter()
    findings: list[Finding] = []
    for path in source_files():
        source = path.read_text()
        tree = ast.parse(source)
        definitions = list(defined_names(tree))
        defined = {name for name, _ in definitions}
        for node in ast.walk(tree):
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
            if name in defined:
                frequencies.update(parts(name))
        frequencies.update(part for name, _ in definitions for part in parts(name))
        findings += banned_names(path, definitions)
        findings += banned_phrases(path, prose_of_code(source))
    for pattern in PROSE:
        for path in sorted(ROOT.glob(pattern)):
            findings += banned_phrases(path, enumerate(path.read_text().splitlines(), 1))
    for stop_word in STOP_WORDS:
        frequencies.pop(stop_word, None)
    return frequencies, findings


def main() -> int:
    """Print the frequency list and the findings; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make vocabulary", description=__doc__)
    parser.add_argument("--top", type=int, default=TOP, help=f"how many words to print (default {TOP})")
    arguments = parser.parse_args()
    frequencies, findings = check()
    for word, count in frequencies.most_common(arguments.top):
        print(f"{count:6}  {word}")
    for finding in findings:
        print(finding)
    print(f"vocabulary {'failed' if findings else 'ok'}: {len(frequencies)} words, {len(findings)} banned")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
