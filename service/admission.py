"""Whether a request is let in, before its upload is read: by what is on its way already, and by its deadline."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service.batcher import BACKFILL_ROOM, TileBatcher
from service.forecast import CAUTION, Need
from service.refusals import DiskFullError, OverloadedError
from service.turns import Priority
from service.upload import Upload

GRACE = 5.0  # seconds in which an upload is taken at its word; after it only what came of it counts


@dataclass(eq=False)
class Claim:
    """The room that a frame will need, guessed from the length of its upload until its header is there."""

    tiles: float
    due: float
    priority: Priority
    stated_bytes: int
    arrived: float = field(default_factory=time.monotonic)
    upload: Upload | None = None

    @property
    def need(self) -> Need:
        """What it will want of the network; who dribbles must not keep others out by the length or header he sends."""
        share = 1.0
        if self.upload and time.monotonic() - self.arrived > GRACE:
            share = min(self.upload.size / self.stated_bytes, 1.0) if self.stated_bytes else 0.0
        return Need(self.tiles * share, self.due)


class Admission:
    """Lets uploads in.

    Parameters
    ----------
    batcher : TileBatcher
        What they will wait for.
    max_uploads : int
        That may be under way, or wait to be decoded, at once; part of them is for live frames alone.
    disk_reserve : int
        Bytes that stay free where uploads are stored.
    free_bytes : callable
        Tells what is free there.
    """

    def __init__(
        self, batcher: TileBatcher, max_uploads: int, disk_reserve: int, free_bytes: Callable[[], int]
    ) -> None:
        self.batcher = batcher
        self.max_uploads = max_uploads
        self.disk_reserve = disk_reserve
        self.free_bytes = free_bytes
        self._claims: set[Claim] = set()

    def __len__(self) -> int:
        """How many uploads are under way."""
        return len(self._claims)

    def open(
        self,
        parts: tuple[str, ...],
        stated_bytes: int,
        due: float,
        priority: Priority,
        tiles_in: Callable[[bytes], int | None] = lambda begun: None,
    ) -> Upload:
        """Let an upload in, for as long as its header does not show that it holds too much.

        Parameters
        ----------
        parts : tuple of str
            That it may have.
        stated_bytes : int
            Its length, 0 where that is not stated.
        due : float
            When the answer must be there, in monotonic time.
        priority : {"live", "backfill"}
            Of the frame.
        tiles_in : callable
            Counts the tiles of a frame by its file's first bytes; None where they do not tell.

        Raises
        ------
        OverloadedError
            If there is no room, or the answer would come too late. Until its header is there, an upload is taken to
            hold the fewest tiles that one of its length held lately.
        DiskFullError
            If it does not fit on the disk.
        """
        pace = self.batcher.pace
        claim = Claim(pace.tiles_per_byte * stated_bytes, due, priority, stated_bytes)
        self._check_uploads(priority)
        self._check_disk(stated_bytes)
        self._check(claim, pace.fewest_per_byte * stated_bytes)
        self._claims.add(claim)
        claim.upload = Upload(
            lambda: self._claims.discard(claim), parts, lambda begun: self._look(claim, tiles_in(begun))
        )
        return claim.upload

    def _look(self, claim: Claim, tiles: int | None) -> bool:
        """Whether it is known what a frame needs; if so, whether there is room is looked at again."""
        if tiles is None:
            return False
        claim.tiles = tiles
        self._check(claim, tiles)
        return True

    def _check(self, claim: Claim, tiles: float) -> None:
        self.batcher.check_room(max(1, int(tiles)), claim.priority)
        self._check_time(claim, tiles)

    def _check_uploads(self, priority: Priority) -> None:
        backfill = sum(claim.priority != "live" for claim in self._claims)
        room = max(1, int(BACKFILL_ROOM * self.max_uploads))
        if len(self) >= self.max_uploads or (priority != "live" and backfill >= room):
            raise OverloadedError(f"{len(self)} uploads are in progress, and no more are taken")

    def _check_disk(self, stated_bytes: int) -> None:
        coming = sum(max(0, claim.stated_bytes - (claim.upload.size if claim.upload else 0)) for claim in self._claims)
        if stated_bytes and self.free_bytes() < coming + stated_bytes + self.disk_reserve:
            raise DiskFullError("there is no room for the upload on the disk")

    def _check_time(self, claim: Claim, tiles: float) -> None:
        pace = self.batcher.pace
        around = tiles * (pace.before_seconds + pace.after_seconds)
        spare = (1 - CAUTION) * (claim.due - time.monotonic()) + around
        coming = [(one.priority, one.need) for one in self._claims if one is not claim]
        self.batcher.check_time(Need(tiles, claim.due), claim.priority, coming, spare)
