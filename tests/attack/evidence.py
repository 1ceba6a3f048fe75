"""The evidence of an attack: it is open if any expectation was not met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attack.site import Site


@dataclass
class Evidence:
    """The observations of an attack, each with whether the installation withstood it."""

    observations: list[tuple[bool, str]] = field(default_factory=list)

    def expect(self, withstood: bool, saw: str, otherwise: str = "") -> None:
        """Record an observation; `otherwise` is the text if the installation did not withstand."""
        self.observations.append((bool(withstood), saw if withstood or not otherwise else otherwise))

    @property
    def is_open(self) -> bool:
        """Whether the attack succeeded anywhere; an attack without observations counts as open."""
        return not self.observations or any(not withstood for withstood, _ in self.observations)

    @property
    def saw(self) -> str:
        """What an open attack achieved, or what a closed one tried."""
        failures = [saw for withstood, saw in self.observations if not withstood]
        return "; ".join(failures or [saw for _, saw in self.observations]) or "nothing was observed"


@dataclass(frozen=True)
class Attack:
    """An attack; its name states what must hold, and its docstring what it tries."""

    run: Callable[[Site], Evidence]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.run.__name__

    @property
    def about(self) -> str:
        """The first line of the function's docstring."""
        return (self.run.__doc__ or "").strip().partition("\n")[0]
