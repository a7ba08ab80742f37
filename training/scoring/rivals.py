"""The rivals that a version is shown beside, each at the settings that are best on the frames it was tuned on."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.progress import track

from lynceus.durable import write_whole
from lynceus.measure import MeasureSpec
from training.scoring import rival, source_extractor
from training.scoring.evaluate import Finder
from training.scoring.rival import Settings
from training.tiling.exposures import LabelledExposure

SEP, SOURCE_EXTRACTOR = "sep", "source-extractor"
TUNED_ON = 4_000_000  # pixels, after which no more frames are taken; every setting is tried on each
Frames = Callable[[], Iterable[LabelledExposure]]


def rival_finders(
    tuning: Frames, measure: MeasureSpec, *, kept: Path | None = None, faintest: float | None = None
) -> dict[str, Finder]:
    """`sep`, and SExtractor where it is installed, tuned for the highest F1 by centre.

    Parameters
    ----------
    tuning : callable
        Gives the frames to tune on; asked once a rival, and not at all for what is kept.
    measure : MeasureSpec
        The box rule.
    kept : Path or None
        File that keeps the settings, because finding them takes minutes.
    faintest : float or None
        Sources below this signal to noise are ignored.

    Returns
    -------
    dict of str to Finder
        By name; every detection counts, whatever its score.
    """
    known: dict[str, Any] = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}

    def tuned(
        name: str, grid: Sequence[Settings], find: Callable[[LabelledExposure, Settings, MeasureSpec], Any]
    ) -> Finder:
        settings = _known(grid[0], known.get(name))
        if settings is None:
            frames = track(_some(tuning()), description=f"tuning {name}")
            settings, _ = rival.tune(grid, lambda one, some: find(one, some, measure), frames, faintest=faintest)
            known[name] = settings.model_dump()
            if kept is not None:
                write_whole(kept, json.dumps(known, indent=1).encode() + b"\n")
        return Finder(lambda one: find(one, settings, measure))

    finders = {SEP: tuned(SEP, rival.GRID, rival.find)}
    if source_extractor.program() is not None:
        grid = source_extractor.SOURCE_EXTRACTOR_GRID
        finders[SOURCE_EXTRACTOR] = tuned(SOURCE_EXTRACTOR, grid, source_extractor.find)
    return finders


def _some(exposures: Iterable[LabelledExposure]) -> Iterator[LabelledExposure]:
    """The first of them, one at least, until they have enough pixels."""
    pixels = 0
    for exposure in exposures:
        yield exposure
        pixels += exposure.frame.pixels.size
        if pixels >= TUNED_ON:
            return


def _known(like: Settings, kept: Any) -> Settings | None:
    """Settings as they were kept; None where there are none that can be used."""
    try:
        return None if kept is None else type(like).model_validate(kept)
    except ValidationError:
        return None
