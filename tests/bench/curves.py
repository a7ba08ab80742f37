"""Curves of growth: points, and the power law through the last of them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench.figures import Exponent, fit_exponent

UPPER = 3  # points that an exponent is fitted to, with all their repeats


@dataclass(frozen=True)
class Point:
    """A point of a curve: `wall` and `cpu` in seconds, a value a repeat, memory in MB."""

    x: float
    wall: Sequence[float]
    cpu: Sequence[float]
    base: float = 0.0
    peak: float = 0.0
    sources: int = 0

    @property
    def memory(self) -> float:
        """That the frame took, in MB: the peak without what the process held before."""
        return self.peak - self.base


@dataclass(frozen=True)
class Curve:
    """Points by rising `x`, and the exponents of the upper part: of `wall`, `cpu`, `memory`, as far as taken."""

    name: str
    along: str
    points: Sequence[Point]
    exponents: dict[str, Exponent] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """As it is kept."""
        exponents = {name: asdict(one) for name, one in self.exponents.items()}
        return {"along": self.along, "points": [asdict(point) for point in self.points], "exponents": exponents}


def fitted(name: str, along: str, points: Sequence[Point], what: Collection[str]) -> Curve:
    """A curve with the exponents of its last points."""
    upper = points[-UPPER:]
    taken: dict[str, Callable[[Point], Sequence[float]]] = {
        "wall": lambda one: one.wall,
        "cpu": lambda one: one.cpu,
        "memory": lambda one: [one.memory],
    }
    exponents = {}
    for quantity in sorted(what):
        pairs = [(one.x, value) for one in upper for value in taken[quantity](one)]
        exponents[quantity] = fit_exponent(*zip(*pairs, strict=True))
    return Curve(name, along, points, exponents)
