"""The commands of docs/scenarios.md, on a suite of two small scenes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model_store import DEFAULT
from training.scoring.source_extractor import program

ROOT = Path(__file__).parents[2]
SMALL = """
name = "small"
[frames]
tuning = 1
calibration = 1
test = 1
[seeds]
tuning = 1
calibration = 2
test = 3
[[scenarios]]
name = "stars"
about = "a few stars"
[scenarios.scene]
size = 160
sources = [300, 300]
fwhm = [2.5, 3.0]
snr = [4, 60]
galaxies = [0.0, 0.0]
[[scenarios]]
name = "blank"
about = "nothing"
starless = true
[scenarios.scene]
size = 160
empty = 1.0
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("LYNCEUS_TEST_DATA", None)
    return subprocess.run(
        [sys.executable, "-m", "training", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)
@pytest.mark.skipif(program() is None, reason="SExtractor is not installed")
def test_a_version_beside_its_rival(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    suite = ("--suite", "small.toml")
    drawn = run(tmp_path, "scenarios", *suite, "--split", "tuning")
    assert drawn.returncode == 0, drawn.stderr
    assert sorted(path.name for path in (tmp_path / "runs/suite/tuning").iterdir()) == ["blank", "stars"]
    told = run(tmp_path, "rival", str(DEFAULT), *suite, "--workers", "1")
    assert told.returncode == 0, told.stderr
    scenes = json.loads((tmp_path / "runs/rival/rival.json").read_text())["report"]["scenes"]
    stars = {name: one["best_f1"] for name, one in scenes[0]["finders"].items()}
    assert len(stars) == 5
    assert min(stars.values()) > 0.5
    assert "| stars |" in told.stdout
    assert (tmp_path / "runs/rival/rival.html").exists()


def test_real_frames_must_be_somewhere(tmp_path):
    told = run(tmp_path, "real", str(DEFAULT))
    assert told.returncode == 1
    assert "LYNCEUS_TEST_DATA" in told.stderr
