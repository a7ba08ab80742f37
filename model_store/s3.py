"""A store under a prefix of an S3 bucket, with a cache on this machine."""

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from lynceus.errors import BundleError, StoreAwayError, StoreError
from lynceus.sums import MANIFEST, SUMS, parse_sums, read_file
from model_store.bucket import Bucket
from model_store.cache import Cache
from model_store.contents import check_manifest, ready_to_push
from model_store.refs import TRACKS, Ref, track_at
from model_store.store import BaseStore, Change, Progress, check_pin, disk_errors, no_version, other_files, pinned
from model_store.tracks import Track, overtaken, read_track, write_track
from model_store.transfer import download, same, under_way, upload

if TYPE_CHECKING:
    from lynceus.bundle import Manifest

log = logging.getLogger(__name__)


class S3Store(BaseStore):
    """Versions under `<name>/<version>/`, made so by SHA256SUMS, written last; tracks in `tracks/<track>.json`."""

    def __init__(self, location: str, cache: Path, *, endpoint: str | None = None, region: str | None = None) -> None:
        self.bucket = Bucket(location, endpoint, region)
        self.cache = Cache(cache)
        self.stale = False

    def versions(self) -> list[Ref]:
        """Every complete version; a push that is under way or died has no SHA256SUMS yet."""
        return sorted(ref for key in self.bucket.all_keys() if (ref := _ref_at(key)))

    def show(self, ref: Ref) -> "Manifest":
        """What a version says of itself, from the cache if it is there."""
        if folder := self.cache.sound(ref, None):
            data = read_file(folder, MANIFEST)
        else:
            data = self._read(ref, MANIFEST, parse_sums(self._sums(ref), str(ref))[MANIFEST])
        from lynceus.bundle import parse_manifest  # brings torch along

        return parse_manifest(data, str(ref))

    def fetch(self, what: Ref | Track, *, progress: Progress | None = None) -> Path:
        """The cached folder of a version, verified; downloaded first if it is not there or damaged."""
        ref, pin = pinned(what)
        if folder := self.cache.sound(ref, pin):
            return folder
        with disk_errors("writing the cache"), self.cache.lock(ref):
            return self.cache.sound(ref, pin) or self._download(ref, pin, progress)

    def push(self, folder: Path, *, ref: Ref | None = None, progress: Progress | None = None) -> Ref:
        """Upload a sealed folder, its SHA256SUMS last; an interrupted push goes on at the file it was at."""
        with disk_errors("reading the folder"):
            ref, sums = ready_to_push(folder, ref)
            if not self._published(ref, sums):
                for name, sha256 in sorted(sums.items()):  # of two that differ, one stops at the first file that does
                    upload(self.bucket, f"{ref}/{name}", folder / name, sha256, progress)
                self._commit(ref, folder, sums)
        return ref

    def verify(self, what: Ref | Track) -> None:
        """Read every byte of a version from the bucket and check it; nothing is kept."""
        ref, pin = pinned(what)
        data = self._sums(ref)
        check_pin(ref, data, pin)
        sums = parse_sums(data, str(ref))
        for name, sha256 in sums.items():
            if self._hash(ref, name) != sha256:
                raise BundleError(f"{ref}: {name} is damaged, its sha256 is not the one in {SUMS}")
        check_manifest(self._read(ref, MANIFEST, sums[MANIFEST]), sums, ref)

    def tracks(self) -> dict[str, Track]:
        """Every track by its name; as last seen, with `stale` set, while the store is away."""
        try:
            found = self._tracks()
        except StoreAwayError as error:
            last = self.cache.last_tracks()
            if not last:
                raise
            if not self.stale:  # said once, however often it is asked
                log.warning("%s; the tracks are those seen last", error)
            self.stale = True
            return last
        self.stale = False
        self.cache.keep_tracks(found)
        return found

    def sealed(self, ref: Ref) -> str:
        """Sha256 of a version's SHA256SUMS, after checking that every file it lists is there."""
        data = self._sums(ref)
        there = self.bucket.all_keys(f"{ref}/")
        for name in parse_sums(data, str(ref)):
            if f"{ref}/{name}" not in there:
                raise _missing(ref, name)
        return hashlib.sha256(data).hexdigest()

    def change(self, track: str, change: Change) -> Track:
        """Replace a track if it is still the one that was read."""
        key = f"{TRACKS}/{track}.json"
        data, etag = self.bucket.read(key) or (b"", None)
        changed = change(read_track(track, data) if etag else None)
        if etag:
            self.bucket.check_conditions(key, data)
        if not self.bucket.put(key, write_track(changed), over=etag):
            winner = self.bucket.read(key)
            raise overtaken(track, read_track(track, winner[0]) if winner else None)
        if not etag:
            self.bucket.check_conditions(key, write_track(changed))
        return changed

    def _download(self, ref: Ref, pin: str | None, progress: Progress | None) -> Path:
        data = self._sums(ref)
        check_pin(ref, data, pin)
        sums = parse_sums(data, str(ref))
        folder = self.cache.partial(ref)
        for name, sha256 in sums.items():
            download(self.bucket, f"{ref}/{name}", folder / name, sha256, progress)
        check_manifest((folder / MANIFEST).read_bytes(), sums, ref)
        (folder / SUMS).write_bytes(data)
        return self.cache.settle(ref)

    def _published(self, ref: Ref, sums: dict[str, str]) -> bool:
        """Whether the same version is there already; raises ConflictError if another one is."""
        there = self.bucket.read(f"{ref}/{SUMS}")
        if there is None:
            return False
        if parse_sums(there[0], str(ref)) != sums:
            raise other_files(ref)
        return True

    def _commit(self, ref: Ref, folder: Path, sums: dict[str, str]) -> None:
        """Write SHA256SUMS, after a last look at whether the files are still those that were uploaded."""
        self.bucket.check_conditions(f"{ref}/{MANIFEST}", (folder / MANIFEST).read_bytes(), sums[MANIFEST])
        key = f"{ref}/{SUMS}"
        for name, sha256 in sums.items():
            if not same(self.bucket.head(f"{ref}/{name}"), sha256, (folder / name).stat().st_size):
                raise under_way(key)
        if not self.bucket.put(key, (folder / SUMS).read_bytes()) and not self._published(ref, sums):
            raise under_way(key)

    def _tracks(self) -> dict[str, Track]:
        found = {}
        for key in self.bucket.all_keys(f"{TRACKS}/"):
            name = track_at(key)
            if name and (there := self.bucket.read(key)):
                found[name] = read_track(name, there[0])
        return found

    def _sums(self, ref: Ref) -> bytes:
        there = self.bucket.read(f"{ref}/{SUMS}")
        if there is None:
            raise no_version(ref)
        return there[0]

    def _read(self, ref: Ref, name: str, sha256: str) -> bytes:
        there = self.bucket.read(f"{ref}/{name}")
        if there is None:
            raise _missing(ref, name)
        if hashlib.sha256(there[0]).hexdigest() != sha256:
            raise BundleError(f"{ref}: {name} is damaged, its sha256 is not the one in {SUMS}")
        return there[0]

    def _hash(self, ref: Ref, name: str) -> str:
        there = self.bucket.head(f"{ref}/{name}")
        if there is None:
            raise _missing(ref, name)
        digest = hashlib.sha256()
        for block in self.bucket.stream(f"{ref}/{name}", there.etag) if there.size else ():
            digest.update(block)
        return digest.hexdigest()


def _ref_at(key: str) -> Ref | None:
    """The version whose SHA256SUMS has this key."""
    folder, _, name = key.rpartition("/")
    try:
        return Ref.parse(folder) if name == SUMS else None
    except StoreError:
        return None


def _missing(ref: Ref, name: str) -> BundleError:
    return BundleError(f"{ref}: {name} is missing in the store, although {SUMS} lists it")
