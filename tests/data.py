"""Real frames for tests: they lie outside the project, and what needs them is skipped without them."""

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("LYNCEUS_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

REAL = [
    "kids_viking/r",
    "kids_viking/H",
    "eso_ntt_emmi/galaxies",
    "panoptes/unsolved",
    "huntsman/science_0",
    "phosim_decam/img_r",
]
STAR_FREE = ["huntsman/bias_0", "huntsman/dark_0", "huntsman/flat_0"]


def test_data(path: str) -> Path:
    """A file or folder of the test data, or a skip with the reason."""
    if not (ROOT / path).exists():
        pytest.skip(f"no test data at {ROOT / path}; set LYNCEUS_TEST_DATA")
    return ROOT / path


def real_frame(name: str) -> bytes:
    """The bytes of a real frame."""
    return test_data(f"frames/{name}.fits").read_bytes()


test_data.__test__ = False  # type: ignore[attr-defined]
