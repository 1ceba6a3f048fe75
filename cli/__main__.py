"""`python -m cli` is the `patina` command."""

from __future__ import annotations

from cli.root import main

if __name__ == "__main__":
    main()
