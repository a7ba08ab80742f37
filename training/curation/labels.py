"""What a frame is good for, in the words of the observatory: labels, and the file in which a person writes them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from training.curation.pairs import Pair, stem_of
from training.errors import TrainingError

MEANINGS = {
    "OK": "nothing speaks against it",
    "ESO": "saturated stars",
    "TRACE": "the trail of a satellite, an aircraft or a meteor",
    "COMET": "a comet",
    "GALAXY": "a galaxy much larger than the seeing",
    "BINARY": "a close pair of bright stars",
    "LIGHT": "light that is not from the sky: a leak, a reflection, twilight",
    "background_pattern": "fringes, steps or stripes in the background",
    "KO": "of no use",
}
LABELS = tuple(MEANINGS)
LINE = re.compile(r"(?P<file>\S.*?)\s+(?P<labels>[\w-]+(?:\s*,\s*[\w-]+)*)\s*,?\s*")
SHOWN = 5  # names in one warning


@dataclass(frozen=True)
class HandLabels:
    """Labels that a person wrote.

    Attributes
    ----------
    labels : mapping of str to tuple of str
        By the key of the pair.
    warnings : tuple of str
        What of the file could not be used, in the user's words.
    """

    labels: Mapping[str, tuple[str, ...]]
    warnings: tuple[str, ...] = ()


def read_labels(path: Path, pairs: Iterable[Pair]) -> HandLabels:
    """Read a label file: `<file>  OK,ESO` a line.

    Parameters
    ----------
    path : Path
        Text. Blank lines, and what stands behind a `#`, are passed over.
    pairs : iterable of Pair
        Of the archive. A file is named by its path in the archive, by its name, with or without its endings, or by the
        key.

    Returns
    -------
    HandLabels
        Labels in the order of `LABELS`, whatever case they are written in. Where a file is named twice, the last line
        counts. A label that is not known is left out; so is a line none of whose labels is.

    Raises
    ------
    TrainingError
        If the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise TrainingError(f"the label file {path} cannot be read: {error.strerror}") from None
    keys = _keys_by_name(pairs)
    labels: dict[str, tuple[str, ...]] = {}
    warnings: list[str] = []
    missing: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not (text := line.partition("#")[0].strip()):
            continue
        match = LINE.fullmatch(text)
        if match is None:
            warnings.append(f"line {number} of the label file is not `<file>  OK,ESO`: {text[:60]!r}")
            continue
        known, unknown = _sorted_out(match["labels"])
        warnings += [f"line {number} of the label file: {_unknown(word)}" for word in unknown]
        found = keys.get(_plain(match["file"]), set())
        if not found:
            missing.append(match["file"])
        elif len(found) > 1:
            warnings.append(f"line {number} of the label file: {match['file']} is the name of several frames")
        elif known:
            key = next(iter(found))
            if labels.get(key, known) != known:
                warnings.append(
                    f"line {number} of the label file: {match['file']} was labelled before; this line counts"
                )
            labels[key] = known
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        warnings.append(f"the label file names frames that do not exist: {', '.join(missing[:SHOWN])}{more}")
    return HandLabels(labels, tuple(warnings))


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Known labels, each once, in the order of `LABELS`."""
    given = set(labels)
    return tuple(label for label in LABELS if label in given)


def _keys_by_name(pairs: Iterable[Pair]) -> dict[str, set[str]]:
    keys: dict[str, set[str]] = {}
    for pair in pairs:
        stem = stem_of(pair.frame.name)
        for name in {pair.key, str(pair.frame), pair.frame.name, stem, str(pair.frame.parent / stem)}:
            keys.setdefault(name, set()).add(pair.key)
    return keys


def _plain(file: str) -> str:
    return str(PurePosixPath(file.strip("\"'").replace("\\", "/")))


def _sorted_out(text: str) -> tuple[tuple[str, ...], list[str]]:
    """The labels that are known, and the words that are not."""
    known = {label.lower(): label for label in LABELS}
    words = [word for word in re.split(r"\s*,\s*", text) if word]
    return in_order(known[word.lower()] for word in words if word.lower() in known), [
        word for word in words if word.lower() not in known
    ]


def _unknown(word: str) -> str:
    near = get_close_matches(word.lower(), [label.lower() for label in LABELS], n=1)
    meant = next((label for label in LABELS if near and label.lower() == near[0]), "")
    return f"there is no label {word!r}" + (f"; is {meant} meant?" if meant else f"; there are {', '.join(LABELS)}")
