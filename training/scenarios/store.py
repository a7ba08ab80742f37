"""Lists of detections that were made before, kept as files: figures are always worked out afresh."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from lynceus.durable import write_whole
from training.scenarios.listings import Listing


def kept_listings(path: Path, make: Callable[[], Sequence[Listing]]) -> list[Listing]:
    """One list a frame: read from a file, or made and written there.

    Parameters
    ----------
    path : Path
        A `.npz`; its name must tell all that the lists depend on.
    make : callable
        Called only where the file is not there.
    """
    if path.exists():
        with np.load(path) as kept:
            positions, scores, counts = (kept[name] for name in ("positions", "scores", "counts"))
        ends = np.cumsum(counts)[:-1]
        parts = zip(np.split(positions, ends), np.split(scores, ends), strict=True)
        return [Listing(*one) for one in parts]
    made = list(make())
    data = BytesIO()
    np.savez_compressed(
        data,
        positions=np.concatenate([np.zeros((0, 2)), *(one.positions for one in made)]),
        scores=np.concatenate([np.zeros(0), *(one.scores for one in made)]),
        counts=np.array([len(one) for one in made]),
    )
    write_whole(path, data.getvalue())
    return made
