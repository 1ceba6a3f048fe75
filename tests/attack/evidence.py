"""What an attack saw, and what that says: open while any expectation was not met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attack.site import Site


@dataclass
class Evidence:
    """Observations of one attack, each with whether the installation withstood it."""

    observations: list[tuple[bool, str]] = field(default_factory=list)

    def expect(self, withstood: bool, saw: str, otherwise: str = "") -> None:
        """Note one observation; `otherwise` is what was seen where the installation did not withstand."""
        self.observations.append((bool(withstood), saw if withstood or not otherwise else otherwise))

    @property
    def is_open(self) -> bool:
        """Whether the attack got what it wanted anywhere; one that saw nothing proves nothing."""
        return not self.observations or any(not withstood for withstood, _ in self.observations)

    @property
    def saw(self) -> str:
        """What an open attack got, or all that a closed one tried."""
        failures = [saw for withstood, saw in self.observations if not withstood]
        return "; ".join(failures or [saw for _, saw in self.observations]) or "nothing was observed"


@dataclass(frozen=True)
class Attack:
    """One attack; it is named after what must hold, and its docstring says what is tried."""

    run: Callable[[Site], Evidence]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.run.__name__

    @property
    def about(self) -> str:
        """The first line of the function's docstring."""
        return (self.run.__doc__ or "").strip().partition("\n")[0]
