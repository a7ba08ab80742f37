"""Results to figures, figures to a table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from tests.load.drive import GONE, LOST, UNSENT, Result

RAMP = 1 / 3  # of a phase


@dataclass(frozen=True)
class Tally:
    """The requests of one priority in one phase, in numbers; times in seconds; `mix` has the answered ones by tiles."""

    phase: str
    priority: str
    seconds: float
    sent: int
    answered: int
    refused: int
    late: int
    other: int
    hung_up: int
    lost: int
    unsent: int
    wrong: tuple[str, ...]
    tiles_per_second: float
    latency: tuple[float, float, float]
    small_latency: tuple[float, float, float]
    refusal: tuple[float, float, float]
    mix: dict[int, int]

    @property
    def accepted(self) -> int:
        """Frames that were let in: they got their answer, or the deadline passed."""
        return self.answered + self.late

    @property
    def kept(self) -> float:
        """Share of them that kept their deadline."""
        return self.answered / self.accepted if self.accepted else 1.0

    def json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self) | {"kept": self.kept}


def tally(phase: str, priority: str, start: float, seconds: float, results: Sequence[Result]) -> Tally:
    """Count the results of one priority; frames alone, what holds none is in `other`.

    Throughput is that of the time in which requests were sent, without the first third: the queue has to fill first,
    and what is answered after the last was sent does not count.
    """
    settled, end = start + RAMP * seconds, start + seconds
    mine = [one for one in results if one.shot.priority == priority or priority == "all"]
    frames = [one for one in mine if one.shot.tiles]
    answered = [one for one in frames if one.status == 200]
    statuses = Counter(one.status for one in frames)
    least = min((one.shot.tiles for one in frames), default=0)
    return Tally(
        phase=phase,
        priority=priority,
        seconds=seconds,
        sent=len(mine) - statuses[UNSENT],
        answered=len(answered),
        refused=statuses[503],
        late=statuses[504] + sum(one.seconds > float(one.shot.query["deadline"]) + 1 for one in answered),
        other=len(mine) - len(frames),
        hung_up=statuses[GONE],
        lost=sum(one.status == LOST for one in mine),
        unsent=statuses[UNSENT],
        wrong=tuple(sorted({one.wrong for one in mine if one.wrong})),
        tiles_per_second=sum(one.shot.tiles for one in answered if settled <= one.at <= end) / (end - settled),
        latency=percentiles([one.seconds for one in answered]),
        small_latency=percentiles([one.seconds for one in answered if one.shot.tiles == least]),
        refusal=percentiles([one.seconds for one in frames if one.status == 503]),
        mix=dict(Counter(one.shot.tiles for one in answered)),
    )


def percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """The median, the 95th and the 99th; NaN where there are none."""
    if not seconds:
        return (float("nan"),) * 3
    first, second, third = np.percentile(seconds, (50, 95, 99)).tolist()
    return first, second, third


def table(tallies: Sequence[Tally], peak: float) -> Table:
    """All phases, a line a priority."""
    shown = Table(title="frames asked for, and what became of them")
    for name in ("phase", "priority"):
        shown.add_column(name)
    for name in (
        "sent",
        "200",
        "503",
        "504",
        "no frame",
        "gone",
        "lost",
        "tiles/s",
        "of peak",
        "p50 / p95 / p99, s",
        "one tile p50 / p95, s",
        "503 p50 / p95, ms",
    ):
        shown.add_column(name, justify="right")
    for one in tallies:
        shown.add_row(
            one.phase,
            one.priority,
            *(str(value) for value in (one.sent, one.answered, one.refused, one.late)),
            *(str(value) for value in (one.other, one.hung_up, one.lost)),
            f"{one.tiles_per_second:.1f}",
            f"{one.tiles_per_second / peak:.0%}" if peak else "",
            " / ".join(f"{value:.2f}" for value in one.latency),
            " / ".join(f"{value:.2f}" for value in one.small_latency[:2]),
            " / ".join(f"{value * 1000:.0f}" for value in one.refusal[:2]),
        )
    return shown
