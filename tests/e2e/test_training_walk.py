"""The walk of docs/training.md, every command of it, on an archive small enough for a test."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lynceus.bundle import load_bundle
from model_store import DEFAULT
from tests.fakes import fits_bytes, star_field
from training.__main__ import app

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "training.md").read_text()
SUITE_GUIDE = (ROOT / "docs" / "scenarios.md").read_text()


def commands_in(guide: str) -> list[str]:
    return [
        line
        for block in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("python -m training ")
    ]


COMMANDS, SUITE_COMMANDS = commands_in(GUIDE), commands_in(SUITE_GUIDE)
RECIPE, STUDY = (ROOT / "training" / "recipes" / name for name in ("transfer.toml", "study.toml"))
SMALLER = {  # how a recipe shrinks
    r"steps = \d+": "steps = 4",
    r"crop = \d+": "crop = 128",
    r"warm_up = \d+": "warm_up = 1",
    r"validate_every = \d+": "validate_every = 2",
    r"validation_tiles = \d+": "validation_tiles = 2",
    r"shares = .*": "size = 192\nshares = [0.5, 0.25, 0.25]",
    re.escape("model_store/bundles/compact/0.1.0"): str(DEFAULT),
}
LIGHTER = {  # and a command
    "--frames 30": "--frames 14 --fields 7 --size 256",
    "training/recipes/transfer.toml": "transfer.toml",
    "--trials 20": "--trials 2",
    "--version": "--no-rivals --version",
    "training evaluate": "training evaluate --no-rivals",
    "study flagged": "study flagged --dataset out/walk/dataset --truth out/walk/archive/truth",
    "--seeds 3": "study.toml --seeds 1",
}
WALK = """
import json, sys
from training.__main__ import app

for words in json.load(sys.stdin):
    print("==", *words, flush=True)
    if app(words, standalone_mode=False):
        sys.exit(1)
"""
MADE = (  # and what must be there at the end
    "dataset/contact_sheet.html", "tiles/tiles.json", "run/weights.pt", "sweep/sweep.html", "report/report.html",
    "flagged/study.md", "amount/study.html", "injected/frame.ecsv",
)  # fmt: skip


def small(text: str, changes: dict[str, str]) -> str:
    for pattern, replacement in changes.items():
        text = re.sub(pattern, replacement, text)
    return text


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A folder with small recipes and a frame."""
    for recipe in (RECIPE, STUDY):
        (tmp_path / recipe.name).write_text(small(recipe.read_text(), SMALLER))
    (tmp_path / "frame.fits").write_bytes(fits_bytes(star_field((200, 220), [(50, 60), (150, 120), (100, 180)])))
    return tmp_path


def test_every_command_is_walked_through():
    walked = {shlex.split(command)[3] for command in [*COMMANDS, *SUITE_COMMANDS]}
    assert walked == {command.callback.__name__ for command in app.registered_commands} - {"simulate"}


@pytest.mark.timeout(900)
def test_the_walk(bench: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    walk = [shlex.split(small(command, LIGHTER))[3:] for command in COMMANDS]
    done = subprocess.run(  # one process for all: each would take ten seconds to import what the last had imported
        [sys.executable, "-c", WALK],
        cwd=bench,
        env=environment,
        input=json.dumps(walk),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert [name for name in MADE if not (bench / "out" / "walk" / name).exists()] == []
    published = load_bundle(bench / "out" / "walk" / "store" / "joan-oro" / "0.1.0")
    assert published.manifest.provenance.parent == f"{DEFAULT.parent.name}/{DEFAULT.name}"


def test_the_guide_names_what_is_there():
    for path in re.findall(r"`(training/[\w/.]+)`", GUIDE):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"\(`(docs/[\w.-]+)`\)", GUIDE):
        assert (ROOT / name).exists(), name
