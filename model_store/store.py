"""What every store can do, and the part of it that does not depend on where the store is."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lynceus.errors import ConflictError, StoreError
from model_store.refs import Ref, check_name
from model_store.tracks import Track, check_revision, step_on

if TYPE_CHECKING:  # at run time only `show` imports it: it brings torch along
    from lynceus.bundle import Manifest

Progress = Callable[[str, int, int], None]  # file name, bytes done, bytes in all
Change = Callable[[Track | None], Track]


class Store(Protocol):
    """Immutable versions, and tracks that point to them.

    Every method raises StoreError (or its kinds ConflictError and StoreAwayError) for what the caller
    must know, and BundleError for a version that is damaged.
    """

    @property
    def stale(self) -> bool:
        """True while the last answer came from the cache because the store was away."""

    def versions(self) -> list[Ref]:
        """Every version that was published completely, the newest of each bundle last."""

    def show(self, ref: Ref) -> "Manifest":
        """What a version says of itself."""

    def fetch(self, what: Ref | Track, *, progress: Progress | None = None) -> Path:
        """A verified folder, ready for `load_bundle`; for a track also checked against the sha256 it pins."""

    def push(self, folder: Path, *, ref: Ref | None = None, progress: Progress | None = None) -> Ref:
        """Publish a sealed folder, as `ref` if one is given: readers see all of it or nothing.

        A second push of the same files changes nothing; one of others raises ConflictError.
        """

    def verify(self, what: Ref | Track) -> None:
        """Read every byte of a version where it lies and check it."""

    def tracks(self) -> dict[str, Track]:
        """Every track by its name."""

    def promote(self, track: str, ref: Ref, *, by: str, reason: str, expected: int | None = None) -> Track:
        """Point a track to a version; ConflictError if somebody was faster, or it is not at revision `expected`."""

    def roll_back(self, track: str, *, by: str, reason: str) -> Track:
        """Point a track to the version it pointed to before."""


class BaseStore(ABC):
    """Tracks on top of what a place can do: seal a version's sums, change one track atomically."""

    def promote(self, track: str, ref: Ref, *, by: str, reason: str, expected: int | None = None) -> Track:
        """Point a track to a version, if it is still at revision `expected` (if given)."""
        check_name("name of a track", track)
        sha256 = self.sealed(ref)

        def change(now: Track | None) -> Track:
            check_revision(track, now, expected)
            return step_on(track, now, ref, sha256, by, reason)

        return self.change(track, change)

    def roll_back(self, track: str, *, by: str, reason: str) -> Track:
        """Point a track to the last other version it pointed to."""
        check_name("name of a track", track)

        def change(now: Track | None) -> Track:
            if now is None:
                raise no_track(track)
            back = now.before
            if self.sealed(back.ref) != back.sha256:
                raise StoreError(f"{back.ref} is not what it was when {track} pointed to it")
            return step_on(track, now, back.ref, back.sha256, by, reason)

        return self.change(track, change)

    @abstractmethod
    def sealed(self, ref: Ref) -> str:
        """Sha256 of a version's SHA256SUMS, after checking that all it lists is there."""

    @abstractmethod
    def change(self, track: str, change: Change) -> Track:
        """Replace a track by what `change` makes of it, unless another process replaces it meanwhile."""


def pinned(what: Ref | Track) -> tuple[Ref, str | None]:
    """The version that is meant, and the sha256 its SHA256SUMS must have, if that is known."""
    return (what.ref, what.sha256) if isinstance(what, Track) else (what, None)


def check_pin(ref: Ref, sums: bytes, pin: str | None) -> None:
    """Raise StoreError if a version is not the one that a track was pointed to."""
    if pin is not None and hashlib.sha256(sums).hexdigest() != pin:
        raise StoreError(f"{ref} was changed after the track was pointed to it; do not use it")


def no_version(ref: Ref) -> StoreError:
    """There is none, or it was not published completely."""
    return StoreError(f"the store holds no version {ref}")


def other_files(ref: Ref) -> ConflictError:
    """It was published with other contents."""
    return ConflictError(f"{ref} is there already with other files; versions are immutable, so choose a new one")


def no_track(track: str) -> StoreError:
    """There is none."""
    return StoreError(f"the store holds no track {track}")


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Tell what the disk refused, without the paths of the machine."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{doing} failed: {error.strerror or type(error).__name__}") from error
