"""The same bundle looking in other ways: what an enlarged frame or another suppression finds, and what it costs."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lynceus.bundle import load_bundle
from lynceus.detector import Detector
from lynceus.figures import Figures
from lynceus.finepass import FineSpec
from lynceus.merge import Suppression
from lynceus.network import Network
from training.errors import TrainingError
from training.scenarios.figures import SceneFigures, score_listings
from training.scenarios.listings import Listing, place_of
from training.scenarios.suite import scenario_folder
from training.tiling.exposures import LabelledExposure, read_scenes


@dataclass(frozen=True)
class Look:
    """Changes to a bundle that need no training.

    Attributes
    ----------
    detector, network : mapping of str to any
        Fields of `DetectorSpec` and `NetworkSpec` to replace.
    """

    detector: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)


def _apart(threshold: float) -> Suppression:
    return Suppression(by="centre", threshold=threshold)


LOOKS: Mapping[str, Look] = {
    "as it is": Look(),
    "enlarged": Look({"fine": FineSpec()}),
    "proposals apart 0.25": Look(network={"proposal_suppression": _apart(0.25)}),
    "proposals apart 0.15": Look(network={"proposal_suppression": _apart(0.15)}),
    "objectness 0.1": Look(network={"proposal_score": 0.1}),
    "objectness 0.05": Look(network={"proposal_score": 0.05}),
    "detections apart 0.15": Look(network={"detection_suppression": _apart(0.15)}),
    "detections apart 0.35": Look(network={"detection_suppression": _apart(0.35)}),
    "no vote": Look(network={"vote": 0.0}),
}
"""What is worth trying; the first is what the others are held against."""


class LookFigures(Figures):
    """How one look does on the frames of one scenario.

    Attributes
    ----------
    scenario, look : str
        Names.
    scene : SceneFigures
        As any finder is scored.
    seconds : float
        Processor time, of all frames.
    """

    scenario: str
    look: str
    scene: SceneFigures
    seconds: float


def looking(detector: Detector, look: Look) -> Detector:
    """The same weights with another look; the detector given stays as it is.

    Raises
    ------
    TrainingError
        If its network is not one of ours, or the weights are not for such a network.
    """
    network = detector.network
    if not isinstance(network, Network):
        raise TrainingError("only a bundle's own network can look in another way")
    changed = Network(network.spec.model_copy(update=dict(look.network)))
    for part in ("backbone", "rpn.head", "roi_heads.box_head", "roi_heads.box_predictor"):
        _share(network, changed, part)
    spec = detector.spec.model_copy(update=dict(look.detector))
    return Detector(changed.eval(), spec, detector.device, detector.workers)


def _share(source: Network, target: Network, part: str) -> None:
    """Let one network use a part of another, folded norms and all."""
    parent, _, name = part.rpartition(".")
    setattr(target.get_submodule(parent), name, source.get_submodule(part))


def compare_looks(
    bundle: Path,
    suite: Path,
    scenarios: Sequence[str] = ("undersampled", "crowded", "sparse"),
    looks: Mapping[str, Look] = LOOKS,
    keys: Iterable[str] | None = None,
) -> list[LookFigures]:
    """Score a bundle's looks on the tuning frames of a suite.

    Parameters
    ----------
    bundle : Path
        `<name>/<version>/`.
    suite : Path
        That `draw_suite` filled.
    scenarios : sequence of str
        Whose frames.
    looks : mapping of str to Look
        What to try.
    keys : iterable of str or None
        Only these frames, as `00000`.
    """
    shipped = load_bundle(bundle).detector
    chosen = None if keys is None else list(keys)
    figures = []
    for scenario in scenarios:
        frames = list(read_scenes(scenario_folder(suite, "tuning", scenario), shipped.spec.sky, chosen))
        for name, look in looks.items():
            scene, seconds = _score(looking(shipped, look), frames)
            figures.append(LookFigures(scenario=scenario, look=name, scene=scene, seconds=seconds))
    return figures


def _score(detector: Detector, frames: Sequence[LabelledExposure]) -> tuple[SceneFigures, float]:
    start = time.process_time()
    found = [Listing.of(detector.detect(one.frame)) for one in frames]
    seconds = time.process_time() - start
    pairs = list(zip(found, map(place_of, frames), strict=True))
    return score_listings(pairs, detector.spec.min_score), seconds


def looks_table(figures: Sequence[LookFigures]) -> str:
    """Markdown: a row for every look, F1 at its best, average precision, completeness at reliability 0.95, and cost."""
    lines = [
        "| scenario | look | best F1 | AP | completeness at 0.95 | SNR of half | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in figures:
        scene = one.scene
        values = (scene.best_f1, scene.ap, scene.completeness_at.get("0.95"), scene.snr50)
        cells = ["-" if value is None else f"{value:.3f}" for value in values]
        lines.append(f"| {' | '.join([one.scenario, one.look, *cells, f'{one.seconds:.1f}'])} |")
    return "\n".join(lines) + "\n"
