"""Attacks: `make attack`, or some of them with `ARGS="--only export keys"`.

Starts a whole installation with two tenants, carries out every attack of `tests.attack.catalogue`, and measures how
long one tenant waits while the other does its worst. Everything stays on this machine. Exit 0 only when no attack
got what it wanted and nobody else had to wait.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict

from rich.console import Console

from runtime import logs
from tests.attack.settings import HOME, settle
from tests.support.folders import emptied_for_one_run


def main() -> int:
    """Run the attacks; the last line of the output is the summary."""
    parser = argparse.ArgumentParser(prog="make attack", description="Attack a whole installation on this machine.")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="parts of names; `load`: the measurement")
    parser.add_argument("--list", action="store_true", help="name the attacks and end")
    parser.add_argument("--json", action="store_true", help="print what was seen as JSON before the last line")
    arguments = parser.parse_args()
    logs.configure("attack", for_command=True)
    with emptied_for_one_run(HOME):
        settle()
        # Importing the jobs creates the broker, so the settings must be set before.
        from tests.attack import runner
        from tests.attack.catalogue import ATTACKS

        if arguments.list:
            print("\n".join(f"{attack.name}: {attack.about}" for attack in ATTACKS))
            return 0
        with_load = not arguments.only or runner.LOAD in arguments.only
        filters = [name_filter for name_filter in arguments.only if name_filter != runner.LOAD]
        attacks = [] if arguments.only and not filters else runner.select(filters)
        if not attacks and not with_load:
            parser.error("no attack has such a name")
        # On SIGTERM, everything that was started is stopped too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        verdicts, measured = runner.run(attacks, with_load=with_load, console=Console(stderr=True))
        if arguments.json:
            print(
                json.dumps(
                    {
                        "attacks": [asdict(verdict) for verdict in verdicts],
                        "load": [asdict(verdict) for verdict in measured],
                    }
                )
            )
        well, lines = runner.summarise(verdicts, measured)
        print("\n".join(lines))
        return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
