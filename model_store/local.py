"""A store in a folder of this machine, or of a file system that machines share."""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from lynceus.durable import new_folder, write_whole
from lynceus.errors import ConflictError, StoreError
from lynceus.sums import SUMS, parse_sums, read_file, sha256_of, verify
from model_store.contents import ready_to_push, verify_version
from model_store.refs import TRACKS, Ref
from model_store.store import BaseStore, Change, Progress, disk_errors, no_version, other_files, pinned
from model_store.tracks import Track, read_track, read_tracks, write_track

if TYPE_CHECKING:
    from lynceus.bundle import Manifest

INCOMING = ".incoming"
BLOCK = 1 << 20  # bytes copied at once
ABANDONED_S = 86400.0  # a push that began so long ago died
LOCK_WAIT_S = 30.0  # a track is locked for milliseconds
log = logging.getLogger(__name__)


class LocalStore(BaseStore):
    """Versions in `<root>/<name>/<version>/`, tracks in `<root>/tracks/<track>.json`."""

    stale = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def versions(self) -> list[Ref]:
        """Every complete version; what a dead push left has a hidden name."""
        self._check_root()
        with disk_errors("listing the store"):
            return sorted(ref for path in self.root.glob(f"*/*/{SUMS}") if (ref := _ref_at(path.parent)))

    def show(self, ref: Ref) -> "Manifest":
        """What a version says of itself."""
        folder = self._folder(ref)
        from lynceus.bundle import read_manifest  # brings torch along

        return read_manifest(folder)

    def fetch(self, what: Ref | Track, *, progress: Progress | None = None) -> Path:
        """The folder of the version itself, verified."""
        ref, pin = pinned(what)
        folder = self._folder(ref)
        verify_version(folder, ref, pin)
        return folder

    def verify(self, what: Ref | Track) -> None:
        """Read every byte of a version and check it."""
        self.fetch(what)

    def push(self, folder: Path, *, ref: Ref | None = None, progress: Progress | None = None) -> Ref:
        """Copy a sealed folder beside the store's, then rename it into place."""
        ref, sums = ready_to_push(folder, ref)
        target = self.root / ref.name / ref.version
        with disk_errors(f"publishing {ref}"):
            if not _published(target, ref, sums):
                try:
                    with new_folder(target, self._incoming()) as partial:
                        _copy(folder, partial, (*sums, SUMS), progress)
                        verify(partial)
                except FileExistsError:  # somebody was faster
                    _published(target, ref, sums)
        return ref

    def tracks(self) -> dict[str, Track]:
        """Every track by its name."""
        self._check_root()
        with disk_errors("reading the tracks"):
            return read_tracks(self.root)

    def sealed(self, ref: Ref) -> str:
        """Sha256 of a version's SHA256SUMS, after reading every byte of the version."""
        return sha256_of(self.fetch(ref) / SUMS)

    def change(self, track: str, change: Change) -> Track:
        """Replace a track under a lock."""
        self._check_root()
        path = self.root / TRACKS / f"{track}.json"
        with disk_errors(f"changing the track {track}"), self._lock(track):
            changed = change(read_track(track, path.read_bytes()) if path.exists() else None)
            write_whole(path, write_track(changed))
        return changed

    @contextmanager
    def _lock(self, track: str) -> Iterator[None]:
        folder = self.root / TRACKS
        folder.mkdir(exist_ok=True)
        try:
            with FileLock(folder / f".{track}.lock", timeout=LOCK_WAIT_S):
                yield
        except Timeout as error:
            raise ConflictError(
                f"another process has been changing the track {track} for {LOCK_WAIT_S:.0f} s"
            ) from error

    def _folder(self, ref: Ref) -> Path:
        self._check_root()
        folder = self.root / ref.name / ref.version
        if not (folder / SUMS).is_file():
            raise no_version(ref)
        return folder

    def _check_root(self) -> None:
        if not self.root.is_dir():
            raise StoreError(f"there is no store at {self.root}")

    def _incoming(self) -> Path:
        """Where pushes are filled; what dead ones left is swept away."""
        folder = self.root / INCOMING
        for path in folder.glob(".*.partial"):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                log.warning("removing what a push that died left in the store")
                shutil.rmtree(path, ignore_errors=True)
        return folder


def _ref_at(folder: Path) -> Ref | None:
    """The version that a folder is named after, if it can be one."""
    try:
        return Ref(folder.parent.name, folder.name)
    except StoreError:
        return None


def _published(target: Path, ref: Ref, sums: dict[str, str]) -> bool:
    """Whether the same version is there already; raises ConflictError if another one is."""
    if not target.exists():
        return False
    if parse_sums(read_file(target, SUMS), str(ref)) != sums:
        raise other_files(ref)
    return True


def _copy(source: Path, target: Path, names: tuple[str, ...], progress: Progress | None) -> None:
    """Copy files block by block, telling how far it is."""
    for name in names:
        total, done = (source / name).stat().st_size, 0
        with (source / name).open("rb") as reading, (target / name).open("wb") as writing:
            while block := reading.read(BLOCK):
                done += writing.write(block)
                if progress:
                    progress(name, done, total)
