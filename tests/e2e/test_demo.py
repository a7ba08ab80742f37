import json
import os
import subprocess
import sys

import pytest
from astropy.io import fits
from astropy.io.votable import parse_single_table
from PIL import Image

from tests.fakes import fits_bytes, star_field


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120"}
    command = [sys.executable, "-m", "examples.demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)


def test_the_demo_finds_draws_and_stops(tmp_path):
    done = run_demo("--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads((tmp_path / "sources.json").read_text())
    assert answer["count"] > 20
    assert len(parse_single_table(tmp_path / "sources.vot").array) == answer["count"]
    assert (tmp_path / "sources.reg").read_text().count("box(") == answer["count"]
    with Image.open(tmp_path / "overlay.png") as overlay:
        assert overlay.size == (1024, 1024)
    assert fits.getdata(tmp_path / "simulated.fits").shape == (1024, 1024)
    assert "timings, ms" in done.stdout


def test_the_demo_takes_a_frame_of_ones_own(tmp_path):
    path = tmp_path / "mine.fits"
    path.write_bytes(fits_bytes(star_field((200, 220), [(50, 60), (150, 120)])))
    done = run_demo("--out", str(tmp_path), "--frame", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "sources.json").read_text())["count"] == 2


@pytest.mark.parametrize("data", [b"no FITS at all", b""])
def test_the_demo_says_what_is_wrong_with_a_frame(tmp_path, data):
    path = tmp_path / "mine.fits"
    path.write_bytes(data)
    done = run_demo("--out", str(tmp_path), "--frame", str(path))
    assert done.returncode == 1
    assert "415" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
