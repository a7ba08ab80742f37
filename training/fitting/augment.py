"""How a tile is varied while training, its boxes with it: turns, flips, rotation, zoom, noise, gain, offset.

Every choice is drawn from the generator that is given: an item of a stream depends on its seed and number alone.
"""

import math

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from lynceus.normalise import NormaliseSpec
from lynceus.spec import Spec

Target = dict[str, Tensor]
LEAST_SEEN = 0.5  # a source whose box shows less than this share inside a tile is ignored there
TO_SIGMA = 1.4826  # from the median absolute deviation of a Gaussian


class AugmentSpec(Spec):
    """How tiles are varied; by default only by the eight turns and flips of a square, which cost nothing.

    Attributes
    ----------
    flips : bool
        Quarter turns and mirror images.
    rotation : float
        Degrees: a tile is rotated by up to so much either way.
    zoom : (float, float)
        Range of the enlargement, drawn evenly in its logarithm.
    noise : float
        Up to so much white noise is added, in units of the sky's; the tile is then expressed in its new noise.
    gain : float
        The counts above the sky are multiplied by up to 1 + `gain`, or divided by it: a noise wrongly estimated.
    offset : float
        A sky wrong by up to so much either way, in units of its noise.
    least_side : float
        No side of a box shrinks under this, in pixels, as the box rule has it.
    """

    flips: bool = True
    rotation: float = Field(0.0, ge=0, le=180)
    zoom: tuple[float, float] = (1.0, 1.0)
    noise: float = Field(0.0, ge=0)
    gain: float = Field(0.0, ge=0)
    offset: float = Field(0.0, ge=0)
    least_side: float = Field(4.0, gt=0)

    @model_validator(mode="after")
    def _zoom_is_a_range(self) -> "AugmentSpec":
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom must be a range of positive factors, not {self.zoom}")
        return self

    @property
    def resamples(self) -> bool:
        """Whether pixels move by more than whole turns."""
        return self.rotation > 0 or self.zoom != (1.0, 1.0)

    @property
    def changes_counts(self) -> bool:
        """Whether pixels change their values."""
        return self.noise > 0 or self.gain > 0 or self.offset > 0


def augment(
    tile: Tensor, target: Target, spec: AugmentSpec, stretch: NormaliseSpec, rng: np.random.Generator
) -> tuple[Tensor, Target]:
    """Vary a tile and its target.

    Parameters
    ----------
    tile : Tensor, shape (C, T, T)
        Normalised; exactly 0 where masked.
    target : dict of str to Tensor
        `boxes` (N, 4), `labels` (N,), `ignored` (M, 4) and, by choice, `hidden` (T, T) bool.
    spec : AugmentSpec
        What may happen.
    stretch : NormaliseSpec
        Of the tile: noise and light add up in counts, not in what the stretch makes of them.
    rng : Generator
        Turn and flip are drawn first, so that a stream without anything else stays what it was.

    Returns
    -------
    tile, target
        Of the same shapes, but for sources that left the tile.
    """
    if spec.flips:
        tile, target = turn(tile, target, int(rng.integers(4)), bool(rng.integers(2)))
    if not spec.resamples and not spec.changes_counts:
        return tile, target
    softening = _softening(stretch, tile)
    counts = torch.sinh(tile) * softening  # (C, T, T), in units of the sky noise
    masked = (tile == 0).all(dim=0)  # noise is never exactly 0
    if spec.resamples:
        angle = float(rng.uniform(-spec.rotation, spec.rotation))
        zoom = math.exp(rng.uniform(*np.log(spec.zoom)))
        counts, masked, target = rotate_and_zoom(counts, masked, target, angle, zoom, spec.least_side)
    if spec.changes_counts:
        counts = disturb(counts, spec, rng)
    return torch.asinh(counts / softening).masked_fill(masked, 0.0), target


def turn(tile: Tensor, target: Target, quarters: int, flip: bool) -> tuple[Tensor, Target]:
    """Rotate a tile (C, T, T) by quarter turns, then flip it left to right, its target with it."""
    side = tile.shape[-1]
    tile = torch.rot90(tile, quarters, dims=(-2, -1))
    turned = dict(target)
    for name in ("boxes", "ignored"):
        box = target[name]
        for _ in range(quarters):  # counter-clockwise on the array: (x, y) -> (y, side - x)
            box = torch.stack([box[:, 1], side - box[:, 2], box[:, 3], side - box[:, 0]], dim=1)
        if flip:
            box = torch.stack([side - box[:, 2], box[:, 1], side - box[:, 0], box[:, 3]], dim=1)
        turned[name] = box
    if "hidden" in target:
        hidden = torch.rot90(target["hidden"], quarters, dims=(-2, -1))
        turned["hidden"] = (hidden.flip(-1) if flip else hidden).contiguous()
    return (tile.flip(-1) if flip else tile).contiguous(), turned


def rotate_and_zoom(
    counts: Tensor, masked: Tensor, target: Target, angle: float, zoom: float, least_side: float
) -> tuple[Tensor, Tensor, Target]:
    """Rotate about the centre and enlarge.

    Parameters
    ----------
    counts : Tensor, shape (C, T, T)
        In units of the sky noise.
    masked : Tensor, shape (T, T), bool
        Pixels without a value.
    target : dict of str to Tensor
        As of `augment`.
    angle, zoom : float
        Degrees, from the x axis towards the y axis; and the enlargement.
    least_side : float
        Of a box, in pixels.

    Returns
    -------
    counts, masked, target
        What comes from outside the tile is masked. Interpolating smooths the noise, so counts are expressed in the
        noise they have afterwards, as `normalise` would express a resampled frame.
    """
    how = {"angle": angle, "translate": [0.0, 0.0], "scale": zoom, "shear": [0.0, 0.0]}
    bilinear, nearest = InterpolationMode.BILINEAR, InterpolationMode.NEAREST
    moved = transforms.affine(tv_tensors.Image(counts), **how, interpolation=bilinear).as_subclass(Tensor)
    gone = transforms.affine(tv_tensors.Mask(masked[None].byte()), **how, interpolation=nearest, fill=1)
    # A pixel that any masked one has a part in is masked: a part of nothing is not a count.
    seen = transforms.affine(tv_tensors.Image((~masked)[None].float()), **how, interpolation=bilinear)
    gone = gone.as_subclass(Tensor)[0].bool() | (seen.as_subclass(Tensor)[0] < 1 - 1e-3)
    if not gone.all():
        moved = moved * (_noise(counts, masked) / _noise(moved, gone))[:, None, None]
    side = counts.shape[-1]
    found = crop_truth(
        _moved(target["boxes"], angle, zoom, side, least_side),
        _moved(target["ignored"], angle, zoom, side, least_side),
        target["labels"],
        side,
    )
    if "hidden" in target:
        trails = transforms.affine(tv_tensors.Mask(target["hidden"][None].byte()), **how, interpolation=nearest)
        found["hidden"] = trails.as_subclass(Tensor)[0].bool()
    return moved, gone, found


def _moved(boxes: Tensor, angle: float, zoom: float, side: int, least_side: float) -> Tensor:
    """Boxes (N, 4) about the sources' new places, no side under `least_side`.

    A box bounds the source's ellipse and not a rectangle: that of a round source stays square however it is rotated,
    and that of an ellipse along the axes has sides sqrt(w^2 cos^2 + h^2 sin^2). A box says nothing of the tilt of an
    ellipse; one that is tilted is taken as lying along the axes.
    """
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2 - side / 2).unbind(dim=1)
    centres = torch.stack([x * cos - y * sin, x * sin + y * cos], dim=1) * zoom + side / 2
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(dim=1)
    sides = torch.stack([torch.hypot(width * cos, height * sin), torch.hypot(width * sin, height * cos)], dim=1)
    half = (sides * zoom).clamp(min=least_side) / 2
    return torch.cat([centres - half, centres + half], dim=1)


def crop_truth(boxes: Tensor, ignored: Tensor, labels: Tensor, side: int) -> Target:
    """What of a truth lies inside a tile.

    Parameters
    ----------
    boxes : Tensor, shape (N, 4)
        Of the sources, in the tile's pixels; they may reach out of it.
    ignored : Tensor, shape (M, 4)
        Ignore regions.
    labels : Tensor, shape (N,), int64
        Of the sources.
    side : int
        Of the tile, in pixels.

    Returns
    -------
    dict of str to Tensor
        `boxes`, `labels` and `ignored`, clipped; a source that is mostly outside is an ignore region.
    """
    clipped = boxes.clamp(0, side)
    sides = clipped[:, 2:] - clipped[:, :2]
    inside = (sides > 0).all(dim=1)
    seen = sides.prod(dim=1) / (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    positive = inside & (seen >= LEAST_SEEN) & (sides >= 1).all(dim=1)
    regions = ignored.clamp(0, side)
    regions = regions[(regions[:, 2:] > regions[:, :2]).all(dim=1)]
    return {
        "boxes": clipped[positive].float(),
        "labels": labels[positive],
        "ignored": torch.cat([clipped[inside & ~positive], regions]).float(),
    }


def disturb(counts: Tensor, spec: AugmentSpec, rng: np.random.Generator) -> Tensor:
    """Add noise, then a wrong gain and a wrong sky, to counts (C, T, T) in units of the sky noise."""
    strength = rng.uniform(0, spec.noise)
    noise = torch.from_numpy(rng.standard_normal(counts.shape[-2:], np.float32))  # one exposure, whatever the stretch
    gain = (1 + spec.gain) ** rng.uniform(-1, 1)
    offset = rng.uniform(-spec.offset, spec.offset)
    return (counts + strength * noise) / math.hypot(1, strength) * gain + offset


def _noise(counts: Tensor, masked: Tensor) -> Tensor:
    """Standard deviation of the sky in each channel, (C,)."""
    sky = counts[:, ~masked]
    if not sky.numel():
        return counts.new_ones(len(counts))
    spread = (sky - sky.median(dim=1, keepdim=True).values).abs().median(dim=1).values * TO_SIGMA
    return torch.where(spread > 0, spread, 1.0)


def _softening(stretch: NormaliseSpec, tile: Tensor) -> Tensor:
    """The stretch of each channel, (C, 1, 1) or one for all."""
    return torch.as_tensor(stretch.softening, dtype=tile.dtype).reshape(-1, 1, 1)
