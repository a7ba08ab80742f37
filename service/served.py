"""The version being served: loaded, verified, warmed up, and the names it answers to."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lynceus.bundle import Bundle, load_bundle
from lynceus.catalogue import ModelInfo
from lynceus.detector import Detector
from lynceus.frame import Frame
from service.refusals import UnknownModelError
from service.settings import Settings

STABLE = "stable"


@dataclass(frozen=True, eq=False)
class Served:
    """A bundle and the track it was loaded for."""

    bundle: Bundle
    track: str = STABLE

    @property
    def info(self) -> ModelInfo:
        """What an answer says of it."""
        manifest = self.bundle.manifest
        classes = manifest.network.classes
        return ModelInfo(manifest.name, manifest.version, self.track, manifest.weights_sha256, classes)

    def described(self) -> dict[str, Any]:
        """What `/models` says of it."""
        manifest = self.bundle.manifest
        return {
            "name": manifest.name,
            "version": manifest.version,
            "tracks": [self.track],
            "sha256": manifest.weights_sha256,
            "classes": list(manifest.network.classes),
            "min_score": manifest.detector.min_score,
            "scores": manifest.scores,
        }

    def check_name(self, name: str) -> None:
        """Raise UnknownModelError unless it is the track, the version or `name/version`."""
        manifest = self.bundle.manifest
        if name not in (self.track, manifest.version, f"{manifest.name}/{manifest.version}"):
            raise UnknownModelError(
                f"no version or track {name[:40]!r} is loaded; {manifest.name}/{manifest.version} is, as {self.track}"
            )


def load_served(settings: Settings) -> Served:
    """Load the bundle of the settings on the device of the settings."""
    device = settings.chosen_device()
    return Served(load_bundle(settings.bundle, device, settings.cores))


def warm_up(detector: Detector) -> None:
    """Look at one tile of noise, so that the first frame does not pay for the first call."""
    size = detector.spec.tile.size
    noise = np.random.default_rng(0).normal(1000, 10, (size, size)).astype(np.float32)
    detector.detect(Frame(noise))
