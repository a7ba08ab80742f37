"""Tracks: names such as `stable` that point to a version, and everything they ever pointed to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError

from lynceus.errors import ConflictError, StoreError
from model_store.refs import TRACKS, Ref, track_at


def _ref(value: Any) -> Ref:
    """Pydantic refuses a value by ValueError alone."""
    try:
        return value if isinstance(value, Ref) else Ref.parse(str(value))
    except StoreError as error:
        raise ValueError(str(error)) from error


RefText = Annotated[Ref, BeforeValidator(_ref), PlainSerializer(str)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Step:
    """A track was pointed to a version: which one, when (ISO 8601, UTC), by whom and why.

    `sha256` is that of the version's SHA256SUMS, so that a track stands for contents and not for a name;
    `revision` counts the steps of a track from 1.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    ref: RefText
    sha256: Sha256
    revision: int
    since: str
    by: str
    reason: str


@dataclass(frozen=True)
class Track:
    """Where a track points now; `history` holds every step from the first to this one."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    ref: RefText
    sha256: Sha256
    revision: int
    since: str
    by: str
    reason: str
    history: tuple[Step, ...]

    def __post_init__(self) -> None:
        last = Step(self.ref, self.sha256, self.revision, self.since, self.by, self.reason)
        if self.history[-1:] != (last,):
            raise ValueError("the last step of its history is not where it points")
        if any(step.revision != number for number, step in enumerate(self.history, 1)):
            raise ValueError("its history has gaps")

    @property
    def before(self) -> Step:
        """The step to go back to: the last one before the present contents first came.

        So going back twice goes two versions back, and never forth to the one just left.
        """
        first = next(place for place, step in enumerate(self.history) if step.sha256 == self.sha256)
        if first == 0:
            raise StoreError(f"{self.name} pointed to nothing before {self.ref}: promote the version you want")
        return self.history[first - 1]

    def __str__(self) -> str:
        return f"{self.name} points to {self.ref} since {self.since} (revision {self.revision}, by {self.by})"


TRACK = TypeAdapter(Track)


def write_track(track: Track) -> bytes:
    """The bytes of `tracks/<track>.json`."""
    return TRACK.dump_json(track, indent=2) + b"\n"


def read_track(name: str, data: bytes) -> Track:
    """Read what `write_track` wrote; raises StoreError if it is damaged or belongs to another track."""
    try:
        track = TRACK.validate_json(data)
    except ValidationError as error:
        raise StoreError(f"the file of the track {name} is damaged: {error.errors()[0]['msg']}") from error
    if track.name != name:
        raise StoreError(f"the file of the track {name} is that of {track.name[:80]!r}")
    return track


def read_tracks(root: Path) -> dict[str, Track]:
    """Every track of a store in a folder, or of a cache."""
    paths = {track_at(f"{TRACKS}/{path.name}"): path for path in sorted((root / TRACKS).glob("*.json"))}
    return {name: read_track(name, path.read_bytes()) for name, path in paths.items() if name}


def step_on(name: str, now: Track | None, ref: Ref, sha256: str, by: str, reason: str) -> Track:
    """Where a track points after one more step, from where it points now (None for a new track)."""
    past: Sequence[Step] = now.history if now else ()
    since = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    step = Step(ref, sha256, len(past) + 1, since, _one_line(by) or "unknown", _one_line(reason))
    return Track(name, ref, sha256, step.revision, since, step.by, step.reason, (*past, step))


def check_revision(name: str, now: Track | None, expected: int | None) -> None:
    """Raise ConflictError unless a track is at the revision that the caller saw (0: it does not exist yet)."""
    if expected is not None and expected != (now.revision if now else 0):
        raise overtaken(name, now)


def overtaken(name: str, now: Track | None) -> ConflictError:
    """What to tell those who come second: who was first, and what they did."""
    there = f"{now}: {now.reason or 'no reason given'}" if now else f"there is no track {name} now"
    return ConflictError(f"the track {name} was changed in the meantime and stays as it is; {there}")


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:500]
