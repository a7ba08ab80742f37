"""One version of a detector on disk: manifest, weights, report and card."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import Field, ValidationError

from lynceus.detector import Detector, DetectorSpec
from lynceus.errors import BundleError
from lynceus.network import Network, NetworkSpec, fold_batch_norms
from lynceus.spec import Spec

MANIFEST, WEIGHTS, REPORT, CARD = "manifest.json", "weights.safetensors", "report.json", "card.md"


class Provenance(Spec):
    """Where the weights come from.

    Attributes
    ----------
    data_fingerprint : str
        sha256 over the recipe's scene ranges and seeds.
    seed : int
        Of the training run.
    code_version : str
        Version or commit of the code that trained it.
    parent : str or None
        `name/version` of the bundle it started from.
    """

    data_fingerprint: str
    seed: int
    code_version: str
    parent: str | None = None


class Manifest(Spec):
    """What a bundle says of itself; a reader refuses a format or a key it does not know."""

    format: Literal[1] = 1
    name: str
    version: str
    network: NetworkSpec
    detector: DetectorSpec
    weights_sha256: str
    provenance: Provenance
    scores: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A detector ready to run, and its manifest."""

    detector: Detector
    manifest: Manifest


def save_bundle(folder: Path, network: Network, manifest: Manifest, report: dict[str, Any], card: str) -> Manifest:
    """Write a new version under `folder/<name>/<version>/`.

    Parameters
    ----------
    folder : Path
        Of the store.
    network : Network
        Its weights are stored in float16.
    manifest : Manifest
        Its `weights_sha256` is filled in here.
    report : dict
        Everything measured, as JSON.
    card : str
        For people, as Markdown.

    Returns
    -------
    Manifest
        As written.

    Raises
    ------
    BundleError
        If that version exists: versions are immutable.
    """
    target = folder / manifest.name / manifest.version
    if target.exists():
        raise BundleError(f"{manifest.name}/{manifest.version} exists already, and versions are immutable")
    partial = target.with_name(f".{manifest.version}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    halves = {name: _stored(tensor) for name, tensor in network.state_dict().items()}
    (partial / WEIGHTS).write_bytes(safetensors.torch.save(halves))  # save_file would leave it to its owner alone
    manifest = manifest.model_copy(update={"weights_sha256": sha256_of(partial / WEIGHTS)})
    (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    (partial / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    (partial / CARD).write_text(card)
    partial.rename(target)
    return manifest


def load_bundle(folder: Path, device: torch.device | str = "cpu", workers: int = 1) -> Bundle:
    """Read and verify a version, then build its detector.

    Parameters
    ----------
    folder : Path
        `<name>/<version>/`.
    device : torch.device or str
        Where the network shall run.
    workers : int
        See `Detector`.

    Raises
    ------
    BundleError
        If a file is missing, the manifest is not understood, or the weights are not those it names.
    """
    manifest = read_manifest(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise BundleError(f"{folder.name} holds no {WEIGHTS}")
    if sha256_of(weights) != manifest.weights_sha256:
        raise BundleError(f"the weights of {manifest.name}/{manifest.version} are not those its manifest names")
    network = Network(manifest.network)
    try:
        network.load_state_dict(safetensors.torch.load_file(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise BundleError(f"the weights of {manifest.name}/{manifest.version} do not fit its network") from error
    fold_batch_norms(network.eval())
    network = network.to(device).to(memory_format=torch.channels_last)
    return Bundle(Detector(network, manifest.detector, device, workers), manifest)


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json` alone.

    Raises
    ------
    BundleError
        If it is missing or not understood.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_text())
    except OSError as error:
        raise BundleError(f"{folder.name} holds no readable {MANIFEST}") from error
    except ValidationError as error:
        raise BundleError(f"the manifest of {folder.name} is not understood: {error.errors()[0]['msg']}") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision for weights; counters stay as they are."""
    return tensor.half().contiguous() if tensor.is_floating_point() else tensor.contiguous()
