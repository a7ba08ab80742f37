"""Versions of detectors, where they lie, and the tracks that point to them; imports neither torch nor boto3."""

from pathlib import Path

from model_store.opening import open_store
from model_store.refs import Ref
from model_store.store import Progress, Store
from model_store.tracks import Step, Track

__all__ = ["BUNDLES", "DEFAULT", "Progress", "Ref", "Step", "Store", "Track", "default_bundle", "open_store"]

BUNDLES = Path(__file__).parent / "bundles"
DEFAULT = BUNDLES / "compact" / "0.4.0"


def default_bundle() -> Path:
    """The folder of the version that ships with the project."""
    return DEFAULT
