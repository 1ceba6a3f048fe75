"""`patina demo`: everything on this machine, with four changes that a user of Xero or Copper might make."""

from __future__ import annotations

import signal
from typing import Annotated

import typer
from rich.console import Console

from cli.demo_environment import DemoEnvironment
from cli.demo_scenario import DemoScenario

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit after the four changes.", metavar="")] = False,
    size: Annotated[int, typer.Option(help="Companies in the sandbox.", min=5, max=5000, metavar="NUMBER")] = 40,
) -> None:
    """Run everything on this machine with a sandbox, and demonstrate four changes."""
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        with DemoEnvironment(console, size) as environment:
            summary = DemoScenario(environment).run()
            if not once:
                environment.wait_forever()
        console.print(summary, markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print("demo stopped: every process has ended")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
