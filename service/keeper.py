"""Keeps the versions that are served in step with the tracks of the store."""

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lynceus.bundle import Bundle, load_bundle
from lynceus.errors import LynceusError, StoreError
from model_store import Ref, Store, Track
from service.device import chosen_device
from service.lineup import Lineup
from service.metrics import Metrics
from service.networks import Networks
from service.served import Served, tried
from service.settings import Settings
from service.versions import CANARY, STABLE, store_of, wanted_version

RETRY = 60.0  # seconds until a version that could not be loaded is tried again

logger = logging.getLogger(__name__)


class Keeper:
    """Loads what the tracks point to, and keeps what it has whenever that fails.

    A new version is loaded beside the old one, verified, warmed up and tried out on a built-in frame; only then does
    one assignment put it into the lineup. Requests in progress keep the version they began with.

    Parameters
    ----------
    settings : Settings
        Where the versions are.
    metrics : Metrics
        Told what is loaded, and of failures.
    bundle : Bundle or None
        Served instead: tests have no weights.
    networks : Networks or None
        Where the networks of all versions run; in this process where it is None.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, bundle: Bundle | None = None, networks: Networks | None = None
    ) -> None:
        self.settings = settings
        self.networks = networks
        self.metrics = metrics
        self.warnings: dict[str, str] = {}
        self.tracks: dict[str, Track] = {}
        self._given = bundle
        self._store: Store | None = None
        self._lineup: Lineup | None = None
        self._loaded: dict[str, Bundle] = {}
        self._failed: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def lineup(self) -> Lineup:
        """What is served now."""
        if self._lineup is None:
            raise RuntimeError("nothing is loaded before start()")
        return self._lineup

    async def start(self) -> None:
        """Load the first lineup, then follow the tracks.

        Raises
        ------
        LynceusError
            If stable cannot be loaded.
        """
        if self._given is not None or self.settings.bundle is not None:
            self._put(STABLE, Served(await asyncio.to_thread(self._load_one), self._track_of(STABLE)))
            return
        self._store = await asyncio.to_thread(store_of, self.settings)
        await self._start_from(self._store)
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Follow no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def described(self) -> dict[str, Any]:
        """What `/models` says: the versions that are loaded, what the tracks point to, and what went wrong."""
        models: dict[str, dict[str, Any]] = {}
        for served in self.lineup.all:
            models.setdefault(served.ref, served.described() | {"tracks": []})["tracks"].append(served.track)
        tracks = {name: {"ref": str(track.ref), "revision": track.revision, "since": track.since, "by": track.by,
                         "reason": track.reason} for name, track in self.tracks.items()}  # fmt: skip
        return {"models": list(models.values()), "tracks": tracks, "warnings": list(self.warnings.values())}

    async def refresh(self) -> None:
        """Look at the tracks once, and follow where they point."""
        assert self._store is not None
        try:
            tracks = await asyncio.to_thread(self._store.tracks)
            wanted = {role: wanted_version(role, self.settings, tracks) for role in (STABLE, CANARY)}
        except LynceusError as error:
            self._warn("store", f"the store cannot be read, the versions stay as they are: {error}")
            return
        self.tracks = tracks
        if self._store.stale:
            self._warn("store", "the store is away; the tracks are those that were last seen")
        else:
            self.warnings.pop("store", None)
        for role, ref in wanted.items():
            await self._turn(role, ref)
        self._forget()

    async def _start_from(self, store: Store) -> None:
        tracks = await asyncio.to_thread(store.tracks)
        ref = wanted_version(STABLE, self.settings, tracks)
        if ref is None:
            raise StoreError(f"the store has no track {self.settings.main_name!r}")
        try:
            self._put(STABLE, Served(await asyncio.to_thread(self._load, ref, tracks), self._track_of(STABLE)))
        except Exception:
            self.metrics.load_failures.inc()
            raise
        await self.refresh()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self.settings.track_poll)
            try:
                await self.refresh()
            except Exception:  # whatever happens, the versions that are loaded go on
                logger.exception("the tracks could not be followed")

    async def _turn(self, role: str, ref: Ref | None) -> None:
        """Let a role be served by a version, unless that version does not work."""
        now = self.lineup.on_track(role)
        if ref is None:
            if role == CANARY and now is not None:
                self._put(CANARY, None)
            return
        if now is not None and now.ref == str(ref):
            self.warnings.pop(role, None)
            return
        if not self._worth_trying(ref):
            return
        try:
            bundle = await asyncio.to_thread(self._load, ref, self.tracks)
        except Exception as error:
            self._fail(role, ref, error)
            return
        self.warnings.pop(role, None)
        self._failed.pop(str(ref), None)
        self._put(role, Served(bundle, self._track_of(role)))
        logger.info("%s is now %s", self._track_of(role), ref)

    def _load(self, ref: Ref, tracks: dict[str, Track]) -> Bundle:
        """A version, from memory if another role has it; what a track pins must be what is there."""
        assert self._store is not None
        known = self._loaded.get(str(ref))
        if known is None:
            pin = next((track for track in tracks.values() if track.ref == ref), ref)
            folder = self._store.fetch(pin)
            known = self._loaded_from(folder)
            self._loaded[str(ref)] = known
        return known

    def _load_one(self) -> Bundle:
        """The version that is served without a store."""
        try:
            if self._given is not None:
                return tried(self._given)
            assert self.settings.bundle is not None
            return self._loaded_from(self.settings.bundle)
        except Exception:
            self.metrics.load_failures.inc()
            raise

    def _loaded_from(self, folder: Path) -> Bundle:
        settings = self.settings
        if self.networks is not None:
            return tried(self.networks.load(folder, settings.precision))
        return tried(load_bundle(folder, chosen_device(settings), settings.cores, settings.precision))

    def _track_of(self, role: str) -> str:
        """What a role is called: on a server that is the canary, who answers everybody is the canary."""
        return self.settings.track if role == STABLE else role

    def _put(self, role: str, served: Served | None) -> None:
        before = None if self._lineup is None else self._lineup.on_track(role)
        for one, value in ((before, 0), (served, 1)):
            if one is not None:
                self.metrics.model.labels(one.info.name, one.info.version, one.track, one.sha256).set(value)
        if served is not None:
            self.metrics.expect_frames(served.track)
        if self._lineup is None:
            assert served is not None
            self._lineup = Lineup(served)
        else:
            self._lineup = self._lineup.with_served(role, served)

    def _worth_trying(self, ref: Ref) -> bool:
        return time.monotonic() >= self._failed.get(str(ref), -RETRY) + RETRY

    def _fail(self, role: str, ref: Ref, error: Exception) -> None:
        self._failed[str(ref)] = time.monotonic()
        self.metrics.load_failures.inc()
        now = self.lineup.on_track(role)
        kept = f"{now.ref} stays" if now else "nothing is in its place"
        reason = str(error) if isinstance(error, LynceusError) else type(error).__name__
        track = self._track_of(role)
        logger.error("%s could not be loaded for %s; %s", ref, track, kept, exc_info=error)
        self._warn(role, f"{ref} could not be loaded for {track}, {kept}: {reason}")

    def _warn(self, about: str, text: str) -> None:
        if self.warnings.get(about) != text:
            logger.warning(text)
        self.warnings[about] = text

    def _forget(self) -> None:
        """Keep what is served, and what stable was before, so that the way back takes no time."""
        keep = {served.ref for served in self.lineup.all}
        for track in self.tracks.values():
            keep.update(str(step.ref) for step in track.history[-2:])
        self._loaded = {name: bundle for name, bundle in self._loaded.items() if name in keep}
