"""Simulated frames on disk: numbered scenes and, beside each, its exact truth."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from rich.progress import track

from training.scenes.scene import SceneSpec, draw_scene


def simulate(folder: Path, count: int, seed: int, spec: SceneSpec, workers: int = 2) -> None:
    """Write frames `00000.fits` and their truth `00000.ecsv`; those that exist are left as they are.

    Parameters
    ----------
    folder : Path
        Made if absent.
    count : int
        Number of frames.
    seed : int
        Frame i depends on `seed` and i alone.
    spec : SceneSpec
        The ranges.
    workers : int
        Processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(count) if not (folder / f"{index:05d}.ecsv").exists()]
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(write_scene, folder, index, seed, spec) for index in missing]
        for job in track(jobs, description=f"simulating {len(missing)} frames into {folder}"):
            job.result()


def write_scene(folder: Path, index: int, seed: int, spec: SceneSpec) -> None:
    """Draw one scene and write its frame, then its truth (whose presence says that both are there)."""
    frame, truth = draw_scene(np.random.default_rng([seed, index]), spec)
    frame.writeto(folder / f"{index:05d}.fits", overwrite=True)
    partial = folder / f"{index:05d}.part"
    truth.write(partial, format="ascii.ecsv", overwrite=True)
    partial.rename(folder / f"{index:05d}.ecsv")
