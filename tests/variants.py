"""Versions made from the shipped weights: real networks, on small tiles, that tests may publish and serve."""

from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from lynceus.bundle import WEIGHTS, Manifest, read_manifest, save_bundle
from lynceus.network import Network
from lynceus.tiling import TileSpec
from model_store import default_bundle

SMALL = TileSpec(size=192, overlap=48)


def save_variant(
    folder: Path,
    version: str,
    change: Callable[[Network], None] = lambda network: None,
    name: str = "variant",
    **detector: object,
) -> Manifest:
    """Write `<folder>/<name>/<version>/`: the shipped weights after a change, on small tiles.

    Parameters
    ----------
    folder : Path
        Of a store.
    version : str
        Of the new version.
    change : callable
        Takes the network and alters its weights in place.
    name : str
        Of the new version.
    **detector
        Fields of its DetectorSpec.
    """
    shipped = read_manifest(default_bundle())
    network = Network(shipped.network)
    weights = safetensors.torch.load_file(default_bundle() / WEIGHTS)
    network.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
    )
    with torch.no_grad():
        change(network.eval())
    spec = shipped.detector.model_copy(update={"tile": SMALL, **detector})
    manifest = shipped.model_copy(update={"name": name, "version": version, "detector": spec, "weights_sha256": ""})
    return save_bundle(folder, network, manifest, {"made_for": "tests"}, f"# {name} {version}\n")


def jitter(seed: int, share: float = 1e-3) -> Callable[[Network], None]:
    """A change so small that it changes nothing but the sha256."""

    def change(network: Network) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            parameter.mul_(1 + share * torch.randn(parameter.shape, generator=generator))

    return change


def deafen(network: Network) -> None:
    """Let a network find nothing."""
    for parameter in network.parameters():
        parameter.zero_()
