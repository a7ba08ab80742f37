"""Which frames have arrived in a folder: files at rest, whose FITS structure adds up."""

import bz2
import gzip
import os
import re
import stat
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import BinaryIO

PATTERNS = tuple(f"*.{kind}{packed}" for kind in ("fits", "fit", "fts") for packed in ("", ".gz", ".bz2", ".fz"))
FRAME_SUFFIX = re.compile(r"\.(fits?|fts)(\.(gz|bz2|fz))?$", re.IGNORECASE)
OWN = ".sources.fits"  # what a result in FITS is called, so that it can be told from a frame
BLOCK, CARD = 2880, 80
MAX_HEADER_BLOCKS = 3000  # what has more is not read on; the service says what it thinks of it
NUMBER = re.compile(rb"(BITPIX|NAXIS\d{0,3}|PCOUNT|GCOUNT) *= *(-?\d+) *(?:/.*)?$", re.DOTALL)
GROUPS = re.compile(rb"GROUPS *= *T")


@dataclass(frozen=True)
class Sighting:
    """A file as a look at the folder shows it.

    Attributes
    ----------
    name : str
        Path below the folder.
    size, mtime_ns : int
        In bytes, and in nanoseconds since 1970; both change when the file does.
    """

    name: str
    size: int
    mtime_ns: int


class Arrivals:
    """Tells the files at rest from those that are still being written.

    Parameters
    ----------
    settle : float
        Seconds in which neither size nor time of change may move between two looks.
    """

    def __init__(self, settle: float) -> None:
        self.settle = settle
        self._seen: dict[str, tuple[Sighting, float]] = {}

    @property
    def unsettled(self) -> int:
        """Files that must be looked at again."""
        return len(self._seen)

    @property
    def next_settling(self) -> float:
        """When the first of them may have come to rest; infinity if there is none."""
        return min((since for _, since in self._seen.values()), default=float("inf")) + self.settle

    def settled(self, sightings: Iterable[Sighting], now: float) -> list[Sighting]:
        """Of the new files of one look, those that have been at rest since an earlier one.

        Parameters
        ----------
        sightings : iterable of Sighting
            Everything there that is not yet taken care of; what is missing is forgotten.
        now : float
            Time of the look, in seconds.
        """
        at_rest, seen = [], {}
        for sighting in sightings:
            before, since = self._seen.get(sighting.name, (None, now))
            since = since if before == sighting else now
            if before == sighting and now - since >= self.settle:
                at_rest.append(sighting)
            else:
                seen[sighting.name] = (sighting, since)
        self._seen = seen
        return at_rest


def scan(folder: Path, patterns: Sequence[str], recursive: bool, skip: Collection[Path] = ()) -> list[Sighting]:
    """Look at a folder once.

    Parameters
    ----------
    folder : Path
        Where frames arrive.
    patterns : sequence of str
        Of file names, in lower case; names are compared in lower case. Hidden files are none.
    recursive : bool
        Whether to look into the folders below too; links to folders are not followed.
    skip : collection of Path
        Folders not to look into.

    Raises
    ------
    OSError
        If the folder itself cannot be read; one below that cannot is as good as empty.
    """
    skipped = {os.path.realpath(path) for path in skip}
    return list(_scan(os.path.realpath(folder), "", patterns, recursive, skipped))


def is_frame_name(name: str, patterns: Sequence[str]) -> bool:
    """Whether a file name (without folders) may be a frame's."""
    lower = name.lower()
    return not lower.startswith(".") and not lower.endswith(OWN) and any(fnmatchcase(lower, one) for one in patterns)


def look_at(path: Path, name: str) -> Sighting:
    """A single file, as `scan` sees it.

    Raises
    ------
    OSError
        If it is gone.
    """
    status = path.stat()
    return Sighting(name, status.st_size, status.st_mtime_ns)


def lacks(path: Path) -> str:
    """What a file still lacks to be a whole FITS file.

    Parameters
    ----------
    path : Path
        Of a file: plain, .gz or .bz2. Only headers of plain files are read.

    Returns
    -------
    str
        The end of a sentence that begins with the file; empty if nothing shows, also where it is not FITS at all,
        which is for the service to say.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        magic = file.read(3)
        file.seek(0)
        try:
            if magic.startswith(b"\x1f\x8b"):
                with gzip.GzipFile(fileobj=file) as unzipped:
                    return _lacking(unzipped)
            if magic == b"BZh":
                with bz2.BZ2File(file) as unzipped:
                    return _lacking(unzipped)
            return _lacking(file)
        except EOFError:
            return "ends in the middle of its compressed data"
        except (OSError, zlib.error) as error:
            if getattr(error, "errno", None) is not None:
                raise
            return ""  # damaged, not short


def _scan(
    folder: str, below: str, patterns: Sequence[str], recursive: bool, skip: Collection[str]
) -> Iterator[Sighting]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{below}{entry.name}"
            try:
                if entry.is_dir(follow_symlinks=False):
                    if recursive and not entry.name.startswith(".") and entry.path not in skip:
                        yield from _scan(entry.path, f"{name}/", patterns, recursive, skip)
                elif is_frame_name(entry.name, patterns):
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode):
                        yield Sighting(name, status.st_size, status.st_mtime_ns)
            except OSError:
                continue  # gone between two calls, or not ours to read


def _lacking(file: BinaryIO | gzip.GzipFile | bz2.BZ2File) -> str:
    """Walk over the HDUs."""
    hdu = 0
    while True:
        head = file.read(BLOCK)
        if not _begins_hdu(head, hdu):
            return "" if hdu or head.strip(b"\0") else "is empty" if not head else "begins with zeros"
        cards = _header(file, head)
        if cards is None:
            return f"has no END card in the header of HDU {hdu}"
        size = _data_size(cards)
        if size and not _holds(file, size):
            return f"ends in the middle of the data of HDU {hdu}"
        file.seek(-size % BLOCK, os.SEEK_CUR)
        hdu += 1


def _begins_hdu(head: bytes, hdu: int) -> bool:
    """Whether a block is the start of a header, or the start of such a start."""
    keyword = b"XTENSION" if hdu else b"SIMPLE  "
    return head[: len(keyword)] == keyword[: len(head)] and bool(head)


def _header(file: BinaryIO | gzip.GzipFile | bz2.BZ2File, block: bytes) -> list[bytes] | None:
    """The cards up to END; None if the file ends before it."""
    cards: list[bytes] = []
    for _ in range(MAX_HEADER_BLOCKS):
        for start in range(0, len(block), CARD):
            card = block[start : start + CARD]
            if card.rstrip(b" \0") == b"END":
                return cards
            cards.append(card)
        if len(block) < BLOCK:
            return None
        block = file.read(BLOCK)
    return []


def _data_size(cards: Iterable[bytes]) -> int:
    """Bytes of data behind a header, without their padding."""
    values: dict[bytes, int] = {}
    groups = False
    for card in cards:
        if found := NUMBER.match(card):
            values.setdefault(found[1], int(found[2]))
        groups = groups or GROUPS.match(card) is not None
    axes = [values.get(b"NAXIS%d" % axis, 0) for axis in range(1, values.get(b"NAXIS", 0) + 1)]
    if groups and axes[:1] == [0]:
        axes = axes[1:]
    elements = prod(axes) if axes else 0
    size = abs(values.get(b"BITPIX", 8)) // 8 * values.get(b"GCOUNT", 1) * (values.get(b"PCOUNT", 0) + elements)
    return max(size, 0)


def _holds(file: BinaryIO | gzip.GzipFile | bz2.BZ2File, size: int) -> bool:
    """Whether there are so many more bytes; they are passed over."""
    file.seek(size - 1, os.SEEK_CUR)
    return len(file.read(1)) == 1
