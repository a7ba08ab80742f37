"""Versions of a distant store on this machine, shared by every process that uses the same folder."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from lynceus.durable import write_whole
from lynceus.errors import BundleError, StoreError
from model_store.contents import verify_version
from model_store.refs import TRACKS, Ref
from model_store.tracks import Track, read_tracks, write_track

PARTIAL, LOCKS = ".partial", ".locks"
log = logging.getLogger(__name__)


class Cache:
    """Complete versions in `<root>/<name>/<version>/`, and the tracks as they were last seen."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def sound(self, ref: Ref, pin: str | None) -> Path | None:
        """The folder of a version if it is here and every byte of it is right."""
        folder = self._folder(ref)
        if not folder.exists():
            return None
        try:
            verify_version(folder, ref, pin)
        except (BundleError, StoreError):
            return None
        return folder

    @contextmanager
    def lock(self, ref: Ref) -> Iterator[None]:
        """One process fetches a version, the others wait for it; the lock of a process that died is free."""
        path = self.root / LOCKS / f"{ref.name}@{ref.version}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path):
            yield

    def partial(self, ref: Ref) -> Path:
        """Where a version is collected; it stays when fetching is interrupted, to be continued."""
        folder = self.root / PARTIAL / ref.name / ref.version
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def settle(self, ref: Ref) -> Path:
        """Make what was collected the cached version, in place of a damaged one."""
        folder = self._folder(ref)
        if folder.exists():
            log.warning("the cached %s is damaged or outdated and is replaced", ref)
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.partial(ref).rename(folder)
        return folder

    def keep_tracks(self, tracks: Mapping[str, Track]) -> None:
        """Remember the tracks for when the store is away; without a cache to write to, they are just not remembered."""
        folder = self.root / TRACKS
        try:
            for name, track in tracks.items():
                write_whole(folder / f"{name}.json", write_track(track))
            for path in folder.glob("*.json"):
                if path.stem not in tracks:
                    path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the tracks cannot be kept in the cache: %s", error.strerror)

    def last_tracks(self) -> dict[str, Track]:
        """The tracks as they were last seen."""
        return read_tracks(self.root)

    def _folder(self, ref: Ref) -> Path:
        return self.root / ref.name / ref.version
