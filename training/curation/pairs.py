"""An archive's frames and the catalogues that belong to them, found by name."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from training.curation.dataset import TABLE
from training.errors import TrainingError

FRAME = re.compile(r"(?P<stem>.+)\.(?:fits|fit|fts)(?:\.(?:fz|gz|bz2))?", re.IGNORECASE)
# The better known to be a catalogue, the earlier: the first of several catalogues of a frame is taken.
CATALOGUE = re.compile(
    r"(?P<stem>.+?)(?P<ending>_trl\.dat|\.(?:ecsv|cat|ldac|dat|vot|xml|csv|tbl|asc|txt|json)|"
    r"[_.](?:cat|ldac|trl)\.(?:fits|fit|fts))(?:\.(?:gz|bz2))?",
    re.IGNORECASE,
)
RANKS = ("_trl.dat", ".ecsv", ".cat", ".ldac", ".dat")
JOAN_ORO = re.compile(r"(?P<key>.+)_[A-Z]_imc")
SUFFIX = re.compile(r"[_.-](?:cat|catalog|catalogue|trl|sex|sources)$", re.IGNORECASE)
NOT_ARCHIVE = ("truth",)  # exact truths of simulated archives are no catalogues of an observatory


@dataclass(frozen=True)
class Pair:
    """A frame and its catalogue.

    Attributes
    ----------
    key : str
        Names the pair; no two of an archive have the same.
    frame : PurePosixPath
        Relative to the archive.
    catalogue : PurePosixPath or None
        Relative to the archive; None where the frame has none.
    others : tuple of PurePosixPath
        More catalogues that go by the frame's name, and are not used.
    """

    key: str
    frame: PurePosixPath
    catalogue: PurePosixPath | None
    others: tuple[PurePosixPath, ...] = ()


@dataclass(frozen=True)
class Found:
    """What an archive holds: its pairs by the frames' paths, and the catalogues that belong to no frame."""

    pairs: tuple[Pair, ...]
    orphans: tuple[PurePosixPath, ...]


def find_pairs(archive: Path) -> Found:
    """Find the frames of an archive and their catalogues.

    Parameters
    ----------
    archive : Path
        A folder, searched with all that it holds, but for folders named `truth`, hidden ones, and data sets.

    Returns
    -------
    Found
        In the order of the frames' paths.

    Raises
    ------
    TrainingError
        If there is no such folder, or no frame in it.

    Notes
    -----
    A catalogue belongs to a frame of the same stem: `a.fits.gz` and `a.cat`, `a_cat.fits`, or, at the Joan Oro
    telescope, `<key>_U_imc.fits.gz` and `<key>_U_imc_trl.dat`. One beside the frame goes before one elsewhere, which
    is taken only if no other frame has the same name.
    """
    if not archive.is_dir():
        raise TrainingError(f"there is no folder {archive}")
    frames: list[PurePosixPath] = []
    catalogues: list[tuple[int, PurePosixPath]] = []
    for path in sorted(_files(archive)):
        match = CATALOGUE.fullmatch(path.name)
        if match:
            catalogues.append((_rank(match["ending"]), path))
        elif FRAME.fullmatch(path.name):
            frames.append(path)
    if not frames:
        raise TrainingError(f"there is no frame (.fits, .fit, .fts, also .fz, .gz, .bz2) in {archive}")
    catalogues.sort()
    own = _assigned(frames, [path for _, path in catalogues])
    keys = _keys(frames)
    pairs = tuple(Pair(keys[frame], frame, next(iter(own[frame]), None), tuple(own[frame][1:])) for frame in frames)
    taken = {path for paths in own.values() for path in paths}
    orphans = tuple(path for _, path in catalogues if path not in taken and _is_surely(path))
    return Found(pairs, orphans)


def stem_of(name: str) -> str:
    """The name of a frame's file without what only says that it is one."""
    match = FRAME.fullmatch(name)
    return match["stem"] if match else name


def _files(archive: Path) -> Iterator[PurePosixPath]:
    """Files, relative to the archive."""
    for folder, folders, names in os.walk(archive):
        if TABLE in names:
            folders[:] = []
            continue
        folders[:] = [name for name in folders if name not in NOT_ARCHIVE and not name.startswith(".")]
        where = PurePosixPath(Path(folder).relative_to(archive).as_posix())
        yield from (where / name for name in names if not name.startswith("."))


def _rank(ending: str) -> int:
    return RANKS.index(ending.lower()) if ending.lower() in RANKS else len(RANKS)


def _is_surely(path: PurePosixPath) -> bool:
    """Whether it can be nothing but a catalogue; notes and logs are text too."""
    return not path.name.lower().endswith((".txt", ".json", ".xml", ".csv"))


def _assigned(
    frames: list[PurePosixPath], catalogues: Iterable[PurePosixPath]
) -> dict[PurePosixPath, list[PurePosixPath]]:
    """The catalogues of each frame: those beside it, the best first, or else those elsewhere by a name of its own."""
    beside: dict[tuple[PurePosixPath, str], list[PurePosixPath]] = defaultdict(list)
    anywhere: dict[str, list[PurePosixPath]] = defaultdict(list)
    for path in catalogues:
        for stem in _stems(path):
            beside[path.parent, stem].append(path)
            anywhere[stem].append(path)
    stems = Counter(stem_of(frame.name) for frame in frames)
    own = {}
    for frame in frames:
        stem = stem_of(frame.name)
        elsewhere = anywhere[stem] if stems[stem] == 1 else []
        own[frame] = beside[frame.parent, stem] or elsewhere
    return own


def _stems(catalogue: PurePosixPath) -> set[str]:
    """Stems of the frames that a catalogue may belong to."""
    match = CATALOGUE.fullmatch(catalogue.name)
    stem = match["stem"] if match else catalogue.name
    return {stem, SUFFIX.sub("", stem), stem_of(stem), SUFFIX.sub("", stem_of(stem))}


def _keys(frames: list[PurePosixPath]) -> dict[PurePosixPath, str]:
    """The shortest of a frame's names that no other frame has."""
    names = {frame: _names(frame) for frame in frames}
    counts = Counter(name for own in names.values() for name in own)
    return {frame: next(name for name in own if counts[name] == 1) for frame, own in names.items()}


def _names(frame: PurePosixPath) -> tuple[str, ...]:
    stem = stem_of(frame.name)
    short = JOAN_ORO.fullmatch(stem)
    path = "-".join((*frame.parent.parts, frame.name))
    names = (short["key"] if short else stem, stem, "-".join((*frame.parent.parts, stem)), path, f"{path}#{frame}")
    return tuple(dict.fromkeys(names))
