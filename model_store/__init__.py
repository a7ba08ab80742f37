"""Versions of detectors: where they lie and which one is the default."""

from pathlib import Path

BUNDLES = Path(__file__).parent / "bundles"
DEFAULT = BUNDLES / "compact" / "0.1.0"


def default_bundle() -> Path:
    """The folder of the version that ships with the project."""
    return DEFAULT
