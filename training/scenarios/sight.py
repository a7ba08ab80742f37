"""What an oracle is told of a simulated frame: sky, noise, faults, optics and the shapes of its galaxies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from training.errors import TrainingError
from training.scenarios.suite import Split, Suite, seed_of
from training.scenes.camera import Detector
from training.scenes.optics import Optics
from training.scenes.ranges import Floats, SceneSpec
from training.scenes.scene import FAINTEST, Scene, Seen, lay_scene
from training.scenes.stamps import add_stamp

NEAR = 0.01  # of the noise; how well a frame must agree with its drawing beyond the rounding of its numbers


@dataclass(frozen=True, eq=False)
class Sight:
    """A frame and what is known about it.

    Attributes
    ----------
    over : ndarray, shape (H, W)
        Light of sources and noise, in ADU: all other light is known, and taken away.
    variance : ndarray, shape (H, W)
        Of a pixel without a source, before the noise was smoothed, in ADU squared.
    sound : ndarray, shape (H, W), bool
        False for cosmic rays, hot pixels, bad columns and saturation.
    detector : Detector
        Its gain and smoothing.
    optics : Optics
        The point spread function.
    galaxies : list of Seen
        Their shapes, lent where one is found.
    largest : float
        Half-light radius of galaxies that such frames may have, in pixels; 0 where they have none.
    """

    over: Floats
    variance: Floats
    sound: NDArray[np.bool_]
    detector: Detector
    optics: Optics
    galaxies: list[Seen]
    largest: float


def sight_of(spec: SceneSpec, seed: int, index: int, frame: Path | None = None) -> Sight:
    """Draw frame `index` of a set again, and look behind the scene.

    Parameters
    ----------
    spec : SceneSpec
        The ranges it was drawn from.
    seed, index : int
        As `simulate` had them.
    frame : Path or None
        The frame on disk, whose numbers are used; by default those drawn, before rounding.

    Raises
    ------
    TrainingError
        If the scene is resampled, or the frame is not of this drawing.
    """
    scene = lay_scene(np.random.default_rng([seed, index]), spec)
    if scene.behind.resampling is not None:
        raise TrainingError("the oracle knows no resampled frames")
    pixels = scene.pixels if frame is None else _read(frame, scene)
    level, variance = _without_sources(scene)
    galaxies = [one for one in scene.behind.seen if one.kind != "star"]
    largest = spec.galaxy_radius[1] if spec.galaxies[1] > 0 else 0.0
    sound = ~scene.behind.faults & (scene.behind.light + scene.behind.sky > 0)  # ringing of a drawing ends at no light
    return Sight(pixels - level, variance, sound, scene.detector, scene.behind.optics, galaxies, largest)


def sight_in_suite(suite: Suite, frame: Path) -> Sight:
    """What is known of a frame `<split>/<scenario>/00000.fits` that `draw_suite` drew.

    Raises
    ------
    TrainingError
        If the suite has no such frame, or it is not of this drawing.
    """
    splits: dict[str, Split] = {split: split for split in suite.seeds}
    split, name = frame.parts[-3:-1] if len(frame.parts) > 2 else ("", "")
    if split not in splits or not frame.stem.isdigit():
        raise TrainingError(f"{frame} is no frame of the suite: <split>/<scenario>/00000.fits")
    (scenario,) = suite.chosen((name,))
    return sight_of(scenario.scene, seed_of(suite, splits[split], name), int(frame.stem), frame)


def _read(path: Path, scene: Scene) -> Floats:
    """The numbers of a frame, which must be those drawn but for their rounding."""
    pixels = np.asarray(fits.getdata(path), np.float64)
    rounding = max(scene.detector.step, 1.0) / 2 + NEAR * scene.detector.noise
    if pixels.shape != scene.pixels.shape or np.abs(pixels - scene.pixels)[scene.pixels > 0].max(initial=0) > rounding:
        raise TrainingError(f"{path} was not drawn from this specification")
    return pixels


def _without_sources(scene: Scene) -> tuple[Floats, Floats]:
    """The light and the noise that there would be without a source, (H, W) each, in ADU and ADU squared.

    Spikes, ghosts and trails are no sources: their light stays.
    """
    behind, detector = scene.behind, scene.detector
    own = np.zeros_like(behind.light)
    for one in behind.seen:
        add_stamp(own, one.pixels, one.flux, one.column, one.row, FAINTEST * detector.noise)
    level = behind.sky + (behind.light - own)
    read_noise: Floats | float = detector.read_noise
    offset: Floats | float = 0.0
    if behind.uneven is not None:
        uneven = behind.uneven
        level = (level + detector.sky * uneven.fringes) * uneven.response
        read_noise, offset = uneven.read_noise, uneven.offset
    variance = np.clip(level, 0, None) / detector.gain + np.square(read_noise / detector.gain)
    return level + offset, variance + detector.step**2 / 12
