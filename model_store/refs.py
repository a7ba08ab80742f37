"""Names of versions and tracks: what is allowed, and which version is newer."""

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Self

from lynceus.errors import StoreError
from lynceus.sums import NAME

TRACKS = "tracks"  # the folder of the tracks lies beside the versions, so no bundle may have its name
TOKEN = re.compile(r"\d+|[a-z]+")
EARLY = {"dev": 0, "a": 1, "alpha": 1, "b": 2, "beta": 2, "c": 3, "pre": 3, "preview": 3, "rc": 3}
BEFORE_END, END, WORD, NUMBER = range(4)


def check_name(kind: str, name: str) -> None:
    """Raise StoreError if a name could be mistaken for a path, an option or the tracks."""
    if not NAME.fullmatch(name) or name == TRACKS:
        raise StoreError(
            f"{name[:80]!r} cannot be the {kind}: use letters, digits, dots, +, - and _, at most 64 of them"
        )


def track_at(path: str) -> str | None:
    """The track whose file has this path in the store; None if it is the file of no track."""
    folder, _, file = path.rpartition("/")
    name = file.removesuffix(".json")
    return name if folder == TRACKS and name != file and NAME.fullmatch(name) else None


@total_ordering
@dataclass(frozen=True)
class Ref:
    """One version of one bundle; refs are ordered by name, then from the oldest version to the newest."""

    name: str
    version: str

    def __post_init__(self) -> None:
        check_name("name of a bundle", self.name)
        check_name("number of a version", self.version)

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Ref):
            return NotImplemented
        return self._order < other._order

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name/version`; raises StoreError if it is anything else."""
        name, slash, version = text.partition("/")
        if not slash:
            raise StoreError(f"{text[:80]!r} is no version: write it as name/version")
        return cls(name, version)

    @property
    def _order(self) -> tuple[object, ...]:
        return self.name, age_key(self.version), self.version


def age_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """What to sort versions by: 1.0.dev1 < 1.0a1 < 1.0rc1 < 1.0 < 1.0.post1 < 1.0.1 < 1.10."""
    return (*(_weight(token) for token in TOKEN.findall(version.lower())), (END, 0, ""))


def _weight(token: str) -> tuple[int, int, str]:
    if token.isdigit():
        return NUMBER, int(token), ""
    return (BEFORE_END, EARLY[token], "") if token in EARLY else (WORD, 0, token)
