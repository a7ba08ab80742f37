"""A tile set on disk: `tiles.json`, which says what it is, and shards of tiles for each split."""

import bisect
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal, overload

from pydantic import Field, ValidationError, model_validator

from lynceus.durable import write_whole
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec
from lynceus.spec import Spec
from training.errors import TrainingError
from training.tiling.exposures import TruthSpec
from training.tiling.shards import LabelledTile, read_tile
from training.tiling.split import SHARES, SPLITS, Shares, Split

__all__ = ["MANIFEST", "LabelledTile", "Shard", "TileSet", "TileSetManifest", "TileSetSpec", "Tiles"]

MANIFEST = "tiles.json"


class TileSetSpec(Spec):
    """How a data set is cut into tiles.

    Attributes
    ----------
    size : int
        Side of a tile, in pixels.
    placing : {"grid", "random"}
        A grid that covers every pixel, its last tiles shifted inwards; or random offsets that hold a source each.
    per_frame : int
        Tiles of a frame, where they are placed at random.
    negatives : float
        Share of the tiles without a source that is kept.
    shares : (float, float, float)
        Of the frames in the splits for training, validation and test.
    seed : int
        Of the split, the random offsets and the choice of negatives.
    per_shard : int
        Tiles in a file.
    truth : TruthSpec
        How catalogues become truth, and which frames are used.
    """

    size: int = Field(512, ge=32)
    placing: Literal["grid", "random"] = "grid"
    per_frame: int = Field(16, gt=0)
    negatives: float = Field(0.1, ge=0, le=1)
    shares: Shares = SHARES
    seed: int = Field(1, ge=0)
    per_shard: int = Field(64, gt=0)
    truth: TruthSpec = TruthSpec()

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> "TileSetSpec":
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError("shares must not be negative and must sum to 1")
        return self


class Shard(Spec):
    """A file of tiles: its name and sha256, and the exposure that each of its tiles is cut from."""

    file: str
    sha256: str
    keys: tuple[str, ...]


class TileSetManifest(Spec):
    """What a tile set says of itself.

    Attributes
    ----------
    spec, sky, measure, classes
        What it was made by.
    source : str
        sha256 over the exposures it is cut from.
    splits : dict of str to tuple of str
        Keys of the exposures in each split, with tiles or without.
    shards : dict of str to tuple of Shard
        Of each split.
    skipped : dict of str to str
        Exposures that could not be used, and why.
    """

    format: Literal[1] = 1
    spec: TileSetSpec
    sky: SkySpec
    measure: MeasureSpec
    classes: tuple[str, ...]
    source: str
    splits: dict[Split, tuple[str, ...]]
    shards: dict[Split, tuple[Shard, ...]]
    skipped: dict[str, str] = Field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The sha256 over what the tiles are: their content, and what they were made by."""
        told = self.model_dump(mode="json", exclude={"source", "skipped"})
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write it, which completes the tile set."""
        write_whole(folder / MANIFEST, self.model_dump_json(indent=1).encode() + b"\n")


@dataclass(frozen=True)
class Tiles(Sequence[LabelledTile]):
    """The tiles of a split, each read when it is asked for."""

    folder: Path
    shards: tuple[Shard, ...]
    mesh: int
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @overload
    def __getitem__(self, index: int) -> LabelledTile: ...
    @overload
    def __getitem__(self, index: slice) -> list[LabelledTile]: ...
    def __getitem__(self, index: int | slice) -> LabelledTile | list[LabelledTile]:
        """Read tile `index` from its shard."""
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"tile {index} of {len(self)}")
        place = index % len(self)
        number = bisect.bisect_right(self.ends, place)
        shard, first = self.shards[number], self.ends[number - 1] if number else 0
        return read_tile(self.folder / shard.file, place - first, shard.keys[place - first], self.mesh)

    def __iter__(self) -> Iterator[LabelledTile]:
        return (self[index] for index in range(len(self)))

    @property
    def keys(self) -> tuple[str, ...]:
        """The exposure that each tile is cut from."""
        return tuple(key for shard in self.shards for key in shard.keys)


class TileSet:
    """A finished tile set.

    Parameters
    ----------
    folder : Path
        That `make_tiles` filled.

    Attributes
    ----------
    spec : TileSetSpec
    sky : SkySpec
    measure : MeasureSpec
        What it was made by.
    classes : tuple of str
        Label i of a tile's boxes is class i - 1.
    fingerprint : str
        A sha256 over the tiles and what they were made by.
    skipped : dict of str to str
        Exposures that could not be used, and why.

    Raises
    ------
    TrainingError
        If the folder holds no finished tile set, or one of a format that is not known.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder)
        self.spec, self.sky, self.measure = self.manifest.spec, self.manifest.sky, self.manifest.measure
        self.classes, self.skipped = self.manifest.classes, self.manifest.skipped
        self.fingerprint = self.manifest.fingerprint

    def split(self, name: Split) -> Tiles:
        """The tiles of "train", "validation" or "test", in a fixed order; any of them can be read at any time."""
        shards = self.manifest.shards[_known(name)]
        return Tiles(self.folder, shards, self.sky.mesh, tuple(accumulate(len(shard.keys) for shard in shards)))

    def keys(self, split: Split) -> tuple[str, ...]:
        """The exposures of a split, also those of which no tile was kept."""
        return self.manifest.splits[_known(split)]


def _known(split: Split) -> Split:
    if split not in SPLITS:
        raise ValueError(f"a split is one of {', '.join(SPLITS)}, not {split!r}")
    return split


def _read_manifest(folder: Path) -> TileSetManifest:
    path = folder / MANIFEST
    if not path.exists():
        raise TrainingError(f"{folder} holds no finished tile set: run `python -m training tile` first, or again")
    try:
        return TileSetManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise TrainingError(f"{path} is not understood: {where or 'JSON'}: {fault['msg']}") from error
