"""docs/performance.md cannot lag: every part and option of the bench is in it, and those it names are there."""

import re
from pathlib import Path

import typer

from tests.bench.__main__ import PARTS, main
from tests.bench.detector import NAIVE_BARS
from tests.bench.growth import SIDES, SOURCES

PAGE = (Path(__file__).parents[3] / "docs" / "performance.md").read_text()


def options():
    app = typer.Typer(add_completion=False)
    app.command()(main)
    return {name for one in typer.main.get_command(app).params for name in one.opts}


def test_every_part_has_its_line_and_every_line_its_part():
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(PARTS)


def test_every_option_it_names_is_one():
    named = set(re.findall(r"(--[a-z]+)\b", PAGE))
    assert named == options() - {"--help", "--bundle"}  # a bundle is given by make's BUNDLE


def test_what_it_says_of_sizes_and_bars_is_so():
    assert f"{SIDES[0]} to {SIDES[-1]} px" in PAGE
    assert f"{SOURCES[0]} to {SOURCES[-1]:,} on" in PAGE
    assert f"{NAIVE_BARS['cpu'].low:g} x the naive loop" in PAGE
