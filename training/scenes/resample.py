"""Resampled frames: turned, shifted and interpolated, light and noise alike, as a reduction leaves them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.scenes.ranges import Floats, Kernel, SceneSpec

REACH: dict[Kernel, int] = {"bilinear": 1, "drizzle": 1, "cubic": 2, "lanczos": 3}  # pixels to either side
DROP = (0.6, 1.0)  # of a pixel; what drizzle shrinks the raw ones to


@dataclass(frozen=True)
class Resampling:
    """Where the pixels of the frame come from: raw = rotation (frame - middle) + middle + margin + shift.

    Attributes
    ----------
    size : int
        Side of the frame, in pixels; the raw one has `margin` more on each side.
    kernel : {"bilinear", "cubic", "lanczos", "drizzle"}
        What it is interpolated with.
    angle : float
        Radians.
    shift : (float, float)
        Along x and y, in pixels.
    drop : float
        Side of drizzle's drops, in pixels.
    """

    size: int
    kernel: Kernel
    angle: float
    shift: tuple[float, float]
    drop: float = 1.0

    @property
    def margin(self) -> int:
        """Pixels the raw frame has more on each side, so that no corner is empty."""
        return int(np.ceil(self.size / 2 * abs(np.sin(self.angle)))) + 8

    @property
    def affine(self) -> NDArray[np.float64]:
        """Matrix (2, 3) from `(x, y, 1)` on the frame to x, y on the raw one, 0-based centres."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        matrix = np.array([[cos, -sin], [sin, cos]])
        middle = np.full(2, (self.size - 1) / 2)
        return np.column_stack([matrix, middle + self.margin + np.array(self.shift) - matrix @ middle])

    def to_raw(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Positions on the raw frame of positions on this one."""
        (a, b, c), (d, e, f) = self.affine
        return a * x + b * y + c, d * x + e * y + f

    def from_raw(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Positions on this frame of positions on the raw one."""
        inverse = np.linalg.inv(self.affine[:, :2])
        x, y = x - self.affine[0, 2], y - self.affine[1, 2]
        return inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y

    def apply(self, raw: Floats) -> Floats:
        """Interpolate the raw frame, shape (size, size)."""
        row, column = np.mgrid[: self.size, : self.size].astype(np.float64)
        return self._taps(*self.to_raw(column, row)).gather(raw)

    def stamp(self, raw: NDArray[np.float32], column: int, row: int) -> tuple[NDArray[np.float32], float]:
        """Interpolate a stamp (S, S) centred on a pixel of the raw frame.

        Returns
        -------
        stamp : ndarray, shape (S, S), float32
            On the pixels of this frame, its middle one nearest to that pixel.
        boost : float
            What a filter of this shape sees of the noise that was interpolated too, over what it would see were the
            noise as strong as on the raw frame and white.
        """
        middle = len(raw) // 2
        x, y = self.from_raw(np.array(column, float), np.array(row, float))
        down, across = np.mgrid[-middle : middle + 1, -middle : middle + 1].astype(np.float64)
        from_x, from_y = self.to_raw(across + np.rint(x), down + np.rint(y))
        around = 4  # raw pixels beyond the stamp that still give a share
        origin = middle + around
        taps = self._taps(from_x - column + origin, from_y - row + origin)
        wide = np.pad(raw.astype(np.float64), around)
        seen = taps.gather(wide)
        spread = taps.scatter(seen, wide.shape)
        return seen.astype(np.float32), float(np.sqrt(np.square(spread).sum() / np.square(seen).sum()))

    def _taps(self, x: Floats, y: Floats) -> "_Taps":
        reach, weigh = REACH[self.kernel], _weights(self.kernel, self.drop)
        steps = np.arange(1 - reach, reach + 1)
        first_x, first_y = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
        across = weigh(steps - (x - first_x)[..., None])
        down = weigh(steps - (y - first_y)[..., None])
        return _Taps(
            first_x + 1 - reach,
            first_y + 1 - reach,
            across / across.sum(axis=-1, keepdims=True),
            down / down.sum(axis=-1, keepdims=True),
        )


@dataclass(frozen=True, eq=False)
class _Taps:
    """For every pixel of a picture (...) the first raw column and row it is made of, and the weights (..., T)."""

    column: NDArray[np.intp]
    row: NDArray[np.intp]
    across: Floats
    down: Floats

    def gather(self, raw: Floats) -> Floats:
        """The weighted sums."""
        seen = np.zeros(self.column.shape)
        for i in range(self.down.shape[-1]):
            rows = np.clip(self.row + i, 0, raw.shape[0] - 1)
            for j in range(self.across.shape[-1]):
                columns = np.clip(self.column + j, 0, raw.shape[1] - 1)
                seen += self.down[..., i] * self.across[..., j] * raw[rows, columns]
        return seen

    def scatter(self, picture: Floats, shape: tuple[int, ...]) -> Floats:
        """The transpose of `gather`: what each raw pixel weighs in a sum over the picture."""
        raw = np.zeros(shape[0] * shape[1])
        for i in range(self.down.shape[-1]):
            rows = np.clip(self.row + i, 0, shape[0] - 1)
            for j in range(self.across.shape[-1]):
                columns = np.clip(self.column + j, 0, shape[1] - 1)
                weights = self.down[..., i] * self.across[..., j] * picture
                raw += np.bincount((rows * shape[1] + columns).ravel(), weights.ravel(), len(raw))
        return raw.reshape(shape)


def draw_resampling(rng: np.random.Generator, spec: SceneSpec) -> Resampling:
    """Draw how a frame was resampled; half of them are shifted only."""
    kernel = spec.kernels[rng.integers(len(spec.kernels))]
    angle = np.radians(rng.uniform(-spec.turn, spec.turn)) * rng.integers(2)
    across, down = rng.uniform(-0.5, 0.5, 2)
    return Resampling(spec.size, kernel, float(angle), (float(across), float(down)), float(rng.uniform(*DROP)))


def _weights(kernel: Kernel, drop: float) -> Callable[[Floats], Floats]:
    """Weight over the distance between a raw pixel and the place asked for, in pixels."""
    functions: dict[Kernel, Callable[[Any], Any]] = {
        "bilinear": lambda d: np.clip(1 - np.abs(d), 0, None),
        "cubic": _keys,
        "lanczos": lambda d: np.where(np.abs(d) < 3, np.sinc(d) * np.sinc(d / 3), 0.0),
        "drizzle": lambda d: np.clip((1 + drop) / 2 - np.abs(d), 0, drop) + 1e-12,  # never all zero
    }
    return functions[kernel]


def _keys(distance: Floats) -> Floats:
    """Keys' cubic convolution, a = -1/2."""
    d = np.abs(distance)
    near, far = (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))
