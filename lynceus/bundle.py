"""One version of a detector on disk: manifest, weights, report and card."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
from pydantic import Field, StringConstraints, ValidationError

from lynceus.blas import one_thread_each
from lynceus.detector import Detector, DetectorSpec
from lynceus.durable import new_folder
from lynceus.errors import BundleError
from lynceus.network import Network, NetworkSpec, fold_batch_norms
from lynceus.onednn import use_onednn
from lynceus.precision import Precision, chosen_dtype
from lynceus.spec import Spec
from lynceus.sums import CARD, MANIFEST, NAME, REPORT, WEIGHTS, label_of, read_file, seal, sha256_of, verify

Name = Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]


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
    name: Name
    version: Name
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
        raise _exists(manifest)
    halves = {name: _stored(tensor) for name, tensor in network.state_dict().items()}
    try:
        with new_folder(target) as partial:
            (partial / WEIGHTS).write_bytes(safetensors.torch.save(halves))  # save_file leaves it to its owner alone
            manifest = manifest.model_copy(update={"weights_sha256": sha256_of(partial / WEIGHTS)})
            (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
            (partial / REPORT).write_text(json.dumps(report, indent=2) + "\n")
            (partial / CARD).write_text(card)
            seal(partial)
    except FileExistsError as error:
        raise _exists(manifest) from error
    return manifest


def load_bundle(
    folder: Path, device: torch.device | str = "cpu", workers: int = 1, precision: Precision = "float32"
) -> Bundle:
    """Read and verify a version, then build its detector; from then on numpy's BLAS uses one thread in this process.

    Parameters
    ----------
    folder : Path
        `<name>/<version>/`.
    device : torch.device or str
        Where the network shall run.
    workers : int
        See `Detector`.
    precision : {"auto", "float32", "bfloat16"}
        See `chosen_dtype`.

    Raises
    ------
    BundleError
        If a file is missing or damaged, or the manifest is not understood; the file is named.
    """
    one_thread_each()
    sums = verify(folder)
    manifest = read_manifest(folder)
    if sums[WEIGHTS] != manifest.weights_sha256:
        raise BundleError(f"{label_of(folder)}: {WEIGHTS} is not the file that its {MANIFEST} names")
    network = Network(manifest.network)
    try:
        network.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise BundleError(f"{label_of(folder)}: {WEIGHTS} does not fit the network of its {MANIFEST}") from error
    fold_batch_norms(network.eval())
    use_onednn(network)
    network = network.to(device).to(memory_format=torch.channels_last)
    network.calculate_in(chosen_dtype(precision, torch.device(device)))
    return Bundle(Detector(network, manifest.detector, device, workers), manifest)


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json` alone.

    Raises
    ------
    BundleError
        If it is missing or not understood.
    """
    return parse_manifest(read_file(folder, MANIFEST), label_of(folder))


def parse_manifest(data: bytes, label: str) -> Manifest:
    """Read the bytes of a `manifest.json`.

    Parameters
    ----------
    data : bytes
        Of the file.
    label : str
        What to call the bundle in errors.

    Raises
    ------
    BundleError
        If it is not understood.
    """
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise BundleError(f"the {MANIFEST} of {label} is not understood: {where or 'JSON'}: {fault['msg']}") from error


def _exists(manifest: Manifest) -> BundleError:
    return BundleError(f"{manifest.name}/{manifest.version} exists already, and versions are immutable")


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision for weights; counters stay as they are."""
    return tensor.half().contiguous() if tensor.is_floating_point() else tensor.contiguous()
