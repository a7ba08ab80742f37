"""The `lynceus` command and the Python client against the shipped version behind BentoML."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lynceus.client import AsyncClient, Client
from lynceus.tables import read_catalogue
from tests.fakes import fits_bytes, star_field

STARS = np.random.default_rng(3).uniform(20, 280, (12, 2)).tolist()
CATALOGUE = "# 1 X_IMAGE\n# 2 Y_IMAGE\n# 3 FWHM_IMAGE\n" + "".join(f"{x + 1} {y + 1} 3\n" for x, y in STARS)


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """Two good frames, a file that is none, and a catalogue."""
    for number in (1, 2):
        (tmp_path / f"frame{number}.fits").write_bytes(fits_bytes(star_field((300, 300), STARS, seed=number)))
    (tmp_path / "broken.fits").write_bytes(b"SIMPLE  =                    T" + b" " * 50 + b"rubbish")
    (tmp_path / "frame1.cat").write_text(CATALOGUE)
    return tmp_path


def lynceus(address: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lynceus", *map(str, arguments)]
    environment = {**os.environ, "LYNCEUS_URL": address}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_detect_prints_json_and_writes_files(address: str, night: Path) -> None:
    done = lynceus(address, "detect", night / "frame1.fits")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["count"] == pytest.approx(len(STARS), abs=2)
    done = lynceus(address, "detect", *sorted(night.glob("*.fits")), "--format", "votable", "--out", f"{night}/found/")
    assert done.returncode == 1
    assert "broken.fits" in done.stderr
    assert "Traceback" not in done.stderr
    written = sorted((night / "found").iterdir())
    assert [path.name for path in written] == ["frame1.vot", "frame2.vot"]
    assert all(len(read_catalogue(path.read_bytes())) > 8 for path in written)


def test_evaluate_scores_and_draws(address: str, night: Path) -> None:
    arguments = ["evaluate", night / "frame1.fits", night / "frame1.cat"]
    done = lynceus(address, *arguments, "--json", "--html", night / "page.html")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["evaluation"]["f1"] > 0.9
    assert "data:image/png" in (night / "page.html").read_text()
    assert "f1" in lynceus(address, *arguments).stdout


def test_models_names_what_is_served(address: str) -> None:
    done = lynceus(address, "models")
    assert done.returncode == 0
    assert "compact" in done.stdout
    assert "stable" in done.stdout


def test_watch_ends_with_a_result_or_a_reason_for_each(address: str, night: Path) -> None:
    done = lynceus(address, "watch", night, "--once", "--out", night / "found", "--settle", "0.1", "--give-up", "1")
    assert done.returncode == 1, done.stderr
    assert sorted(path.name for path in (night / "found").glob("*.vot")) == ["frame1.vot", "frame2.vot"]
    [reason] = (night / "dead-letters").glob("*.reason.json")
    assert json.loads(reason.read_text())["reason"]


def test_compare_says_when_there_is_nothing_to_compare(address: str, night: Path) -> None:
    done = lynceus(address, "compare", night, "--stable", address, "--canary", f"{address}@canary")
    assert done.returncode == 30
    assert "could not compare" in done.stderr
    assert "'canary' is loaded" in done.stderr


def test_the_client_in_python_both_ways(address: str, night: Path) -> None:
    frame = night / "frame1.fits"
    with Client(address) as client:
        first = client.detect(frame, min_score=0.9)
        assert client.evaluate(frame, night / "frame1.cat")["evaluation"]["recall"] > 0.9
        assert client.models()["models"][0]["name"] == "compact"

    async def ask() -> list[dict[str, object]]:
        async with AsyncClient(address) as client:
            return list(await asyncio.gather(*(client.detect(frame, min_score=0.9) for _ in range(3))))

    for answer in asyncio.run(ask()):
        assert answer["detections"] == first["detections"]
