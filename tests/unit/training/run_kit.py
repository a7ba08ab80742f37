"""Runs small enough for tests: two frames of simple stars, and a network of some thousand weights."""

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from lynceus.network import NetworkSpec
from tests.unit.training.tile_kit import FWHM, star_field
from training.recipe import Recipe, SceneSet, TrainingSpec

NETWORK = NetworkSpec(widths=(8, 8, 8, 8), blocks=(1, 1, 1, 1), pyramid=8, head_units=(16,))
BRIEF: dict[str, Any] = {"crop": 64, "batch": 2, "steps": 4, "warm_up": 1, "save_every": 2}


def write_scene(folder: Path, number: int, side: int = 128, kinds: tuple[str, ...] = ("star",)) -> None:
    """A frame and its exact truth, as `simulate` names them."""
    folder.mkdir(parents=True, exist_ok=True)
    x, y = (positions := np.random.default_rng(number).uniform(10, side - 10, (12, 2))).T
    half = 2.5 * FWHM / 2
    truth = Table({"x": x, "y": y, "x_min": x + 0.5 - half, "y_min": y + 0.5 - half})
    truth["x_max"], truth["y_max"] = x + 0.5 + half, y + 0.5 + half
    truth["ignored"] = np.arange(12) == 11
    truth["kind"] = np.resize(kinds, 12)
    truth["fwhm"], truth["snr"] = FWHM, 50.0
    fits.PrimaryHDU(star_field(positions, (side, side), number)).writeto(folder / f"{number:05d}.fits")
    truth.write(folder / f"{number:05d}.ecsv", format="ascii.ecsv")


def write_scenes(run: Path) -> Path:
    """A run's folder with frames to train on, and others to look at the network with."""
    for number in range(3):
        write_scene(run / ("tuning" if number == 2 else "train"), number)
    return run


def small_recipe(*phases: dict[str, Any], **changes: Any) -> Recipe:
    """A recipe for `write_scenes`, each phase a change of `BRIEF`."""
    sets = {
        f"{name}_set": SceneSet(folder=name, count=2, seed=seed)
        for seed, name in enumerate(("train", "tuning", "validation"))
    }
    training = tuple(TrainingSpec(**{**BRIEF, **phase}) for phase in phases or ({},))
    return Recipe(**{"name": "small", "network": NETWORK, "training": training, **sets, **changes})
