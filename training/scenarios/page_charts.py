"""The charts of a scene: how deep, how reliable, and how honest the scores are."""

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from lynceus.detections import Floats
from lynceus.figures import Bin
from lynceus.pages import BLUE, GREEN, GREY, LINE, ORANGE, RED, chart
from training.scenarios.calibration import Calibration, CalibrationBin
from training.scenarios.depth import RELIABILITY
from training.scenarios.figures import SceneFigures

STYLES = ((GREEN, "-"), (BLUE, "-"), (ORANGE, "-"), (RED, "-"), (GREY, "--"))  # a finder each; the first is ours
SIZE = (5.0, 3.8)
FAINT, BRIGHT = 1.6, 40.0  # signal to noise at the ends of the axis
TICKS = (2, 3, 4, 5, 6, 8, 10, 15, 25)


def completeness_chart(finders: Mapping[str, SceneFigures]) -> Markup | None:
    """Completeness by signal to noise, and where each is a half; None if no list is reliable enough."""
    shown = {name: one for name, one in finders.items() if one.depth.by_snr}
    if not shown:
        return None

    def draw(axes: Axes) -> None:
        for place, (name, one) in enumerate(finders.items()):
            if name not in shown:
                continue
            colour, line = STYLES[place % len(STYLES)]
            bins = [part for part in one.depth.by_snr if part.count]
            snr = np.array([_middle(part) for part in bins]) * 1.008**place
            shares = np.array([part.share for part in bins])
            ends = np.array([part.interval for part in bins]).T
            axes.errorbar(
                snr,
                shares,
                np.abs(ends - shares),
                fmt="o",
                linestyle=line,
                color=colour,
                linewidth=1.5,
                markersize=3.5,
                elinewidth=0.8,
                label=name,
            )
            if one.snr50 is not None:
                axes.axvline(one.snr50, color=colour, linewidth=0.9, linestyle=":")
        axes.axhline(0.5, color=LINE, linewidth=1.2)
        axes.set_xscale("log")
        axes.set_xlim(FAINT, BRIGHT)
        axes.set_xticks(TICKS, [str(tick) for tick in TICKS], fontsize=8.5)
        axes.set_xticks([], minor=True)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("signal to noise")
        axes.set_ylabel("completeness")
        axes.legend(fontsize=8, loc="lower right")

    told = "; ".join(f"{name}: {one.snr50:.2f}" for name, one in shown.items() if one.snr50 is not None)
    return chart(draw, f"Completeness by signal to noise. Half of all at {told}", SIZE)


def curve_chart(finders: Mapping[str, SceneFigures]) -> Markup | None:
    """Reliability against completeness, the shipped threshold marked; None without curves."""
    if not any(one.curve for one in finders.values()):
        return None

    def draw(axes: Axes) -> None:
        for place, (name, one) in enumerate(finders.items()):
            colour, line = STYLES[place % len(STYLES)]
            x, y = np.array([(point.completeness, point.reliability) for point in one.curve]).reshape(-1, 2).T
            axes.plot(x, y, linestyle=line, color=colour, linewidth=1.6, label=name)
            if one.completeness_shipped is not None and one.reliability_shipped is not None:
                axes.plot(one.completeness_shipped, one.reliability_shipped, "o", color=colour, markersize=6)
        axes.axhline(RELIABILITY, color=GREY, linewidth=0.9, linestyle=":")
        axes.set_xlim(*_completeness_limits(finders))
        axes.set_ylim(0.5, 1.01)
        axes.set_xlabel("completeness")
        axes.set_ylabel("reliability")
        axes.legend(fontsize=8, loc="lower left")

    told = "; ".join(f"{name}: {one.completeness_at['0.95']:.2f}" for name, one in finders.items() if one.curve)
    return chart(draw, f"Reliability against completeness. Completeness at 95 % reliability: {told}", SIZE)


def reliability_chart(calibration: Calibration) -> Markup | None:
    """The share of right detections by their score; None without detections."""
    if not calibration.bins:
        return None

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
        for bins, fill in ((calibration.bins, "full"), (calibration.ends, "none")):
            if bins:
                score, share, spread = _columns(bins)
                axes.errorbar(score, share, spread, fmt="o", color=GREEN, fillstyle=fill, markersize=5, elinewidth=1.1)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("score")
        axes.set_ylabel("share that is right")

    error = "unknown" if calibration.error is None else f"{calibration.error:.3f}"
    return chart(draw, f"Share of right detections by score; calibration error {error}", SIZE)


def _columns(bins: tuple[CalibrationBin, ...]) -> tuple[Floats, Floats, Floats]:
    score, share = np.array([(one.score, one.share) for one in bins]).T
    return score, share, np.abs(np.array([one.interval for one in bins]).T - share)


def _completeness_limits(finders: Mapping[str, SceneFigures]) -> tuple[float, float]:
    """Where the curves are of interest: a little left of where the worst leaves 95 % reliability."""
    reached = [one.completeness_at.get("0.95", 0.0) for one in finders.values() if one.curve]
    return max(min(reached, default=0.0) - 0.15, -0.01), 1.01


def _middle(part: Bin) -> float:
    """The geometric middle of a bin; of an open one, near its edge."""
    low, high = part.low or FAINT, part.high if part.high is not None else 1.5 * (part.low or 1.0)
    return float(np.sqrt(low * high))
