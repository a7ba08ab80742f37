"""Weights of others, brought under a network's own names."""

import re
import urllib.request
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import ResNet18_Weights, ResNet34_Weights, ResNet50_Weights, ResNet101_Weights
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights, FasterRCNN_ResNet50_FPN_Weights

from lynceus.bundle import read_manifest
from lynceus.network import Network, NetworkSpec
from lynceus.sums import WEIGHTS, verify
from training.errors import TrainingError

PATIENCE = 20  # seconds to reach a server
BATCH_NORM_EPS = 1e-5
IMAGENET = {
    "resnet18": ResNet18_Weights.IMAGENET1K_V1,
    "resnet34": ResNet34_Weights.IMAGENET1K_V1,
    "resnet50": ResNet50_Weights.IMAGENET1K_V1,
    "resnet101": ResNet101_Weights.IMAGENET1K_V1,
}
QUANTISED = ".frac_bits"
PREDICTOR = "roi_heads.box_predictor."
WRAPPERS = ("state_dict", "model", "network", "weights")
PREFIXES = ("module.", "network.", "model.")
RENAMED = (  # old torchvision names, and those of its first box head, to ours
    (r"^(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2"),
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    (r"^(roi_heads\.box_head)\.fc6\.(weight|bias)$", r"\1.1.\2"),
    (r"^(roi_heads\.box_head)\.fc7\.(weight|bias)$", r"\1.3.\2"),
)


def named_as_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of torchvision's networks, of its bodies or of ours, under the names of `Network`.

    Parameters
    ----------
    state : mapping of str to Tensor
        A whole `fasterrcnn_resnet50_fpn` (v1, v2, any age) or a `Network`, a `resnet*` with or without its classes,
        or one of these under a prefix such as "module.".

    Returns
    -------
    dict of str to Tensor
        What is of no use (the classes of ImageNet) is left out.

    Notes
    -----
    Weights with the names that torchvision used before 0.14 were trained when its frozen norms added nothing to the
    variance; what is added today is subtracted beforehand, so that they answer as they did.
    """
    state = _without_prefix(state)
    if "conv1.weight" in state:
        state = {f"backbone.body.{name}": tensor for name, tensor in state.items() if not name.startswith("fc.")}
    aged = "rpn.head.conv.weight" in state
    named = {}
    for name, tensor in state.items():
        if aged and name.startswith("backbone.body.") and name.endswith("running_var"):
            tensor = tensor - BATCH_NORM_EPS
        for old, new in RENAMED:
            name = re.sub(old, new, name)
        named[name] = tensor
    return named


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = dict(state)
    for prefix in PREFIXES:
        inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        state = inside if "conv1.weight" in inside or any(name.startswith("backbone.") for name in inside) else state
    return state


def file_weights(path: Path, spec: NetworkSpec) -> dict[str, Tensor]:
    """Read a `.pth`, `.pt`, `.safetensors` or `.npz` under the names of `Network`.

    Parameters
    ----------
    path : Path
        Pickles are read for tensors alone.
    spec : NetworkSpec
        Of the network they are for.

    Raises
    ------
    TrainingError
        If the file is missing, unreadable or holds no weights, or if its body has its strides elsewhere.
    """
    readers = {".safetensors": load_file, ".npz": _read_arrays, ".pth": _read_torch, ".pt": _read_torch}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TrainingError(f"{path} is no file of weights: .pth, .pt, .safetensors and .npz can be read")
    try:
        state = reader(path)
    except (OSError, ValueError, RuntimeError, EOFError, BadZipFile, UnpicklingError, SafetensorError) as error:
        raise TrainingError(f"{path} cannot be read as weights: {_short(error)}") from error
    if any(name.endswith(QUANTISED) for name in state):
        if spec.downsampling != "1x1":
            raise TrainingError(f'{path} has its strides in the first convolutions: set network.downsampling = "1x1"')
        state = dequantised(state)
    return named_as_ours(state)


def _read_arrays(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays}


def _read_torch(path: Path) -> dict[str, Tensor]:
    state: Any = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("it holds no tensors by name")
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def dequantised(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of 8 bits with folded norms as floats with norms that change nothing.

    Parameters
    ----------
    state : mapping of str to Tensor
        `<name>.weight` is to be divided by 2 to the power of `<name>.weight.frac_bits`; of a norm there is the bias.

    Returns
    -------
    dict of str to Tensor
        Norms have weight 1, mean 0 and a variance that makes 1 with what is added to it.
    """
    floats = {name: tensor.float() for name, tensor in state.items() if not name.endswith(QUANTISED)}
    for name in [name for name in state if name.endswith(QUANTISED)]:
        floats[name.removesuffix(QUANTISED)] /= 2.0 ** int(state[name])
    for name in [name for name in floats if name.endswith(".bias") and name != "fc.bias"]:
        norm, zero = name.removesuffix(".bias"), torch.zeros_like(floats[name])
        floats |= {f"{norm}.weight": zero + 1, f"{norm}.running_mean": zero}
        floats[f"{norm}.running_var"] = zero + (1 - BATCH_NORM_EPS)
    return floats


def bundle_weights(folder: Path, network: Network) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of a published version, to go on from.

    Parameters
    ----------
    folder : Path
        `<name>/<version>/`.
    network : Network
        Where a class has the same name in both, its rows of the last layers are taken; other classes' are not.

    Returns
    -------
    weights : dict of str to Tensor
        In float32.
    unknown : list of str
        Classes of the network that the bundle does not have.

    Raises
    ------
    BundleError
        If the bundle is missing or damaged.
    TrainingError
        If its body has its strides elsewhere.
    """
    verify(folder)
    theirs = read_manifest(folder).network
    if theirs.downsampling != network.spec.downsampling:
        raise TrainingError(f'{folder} was made with network.downsampling = "{theirs.downsampling}": set the same')
    state = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    unknown = [name for name in network.spec.classes if name not in theirs.classes]
    if theirs.classes == network.spec.classes:
        return state, unknown
    own = network.state_dict()
    for name in [name for name in state if name.startswith(PREDICTOR)]:
        rows = state.pop(name)
        if own[name].shape[1:] == rows.shape[1:] and set(theirs.classes) & set(network.spec.classes):
            state[name] = _rows_by_class(own[name], rows, network.spec.classes, theirs.classes)
    return state, unknown


def _rows_by_class(own: Tensor, given: Tensor, ours: tuple[str, ...], theirs: tuple[str, ...]) -> Tensor:
    """Rows of the last layers, one or four a class after the background's: those of shared classes replaced."""
    mine = own.clone().reshape(len(ours) + 1, -1, *own.shape[1:])  # (classes + 1, 1 or 4, ...)
    given = given.reshape(len(theirs) + 1, -1, *own.shape[1:])
    mine[0] = given[0]
    for row, name in enumerate(ours, start=1):
        if name in theirs:
            mine[row] = given[theirs.index(name) + 1]
    return mine.reshape(own.shape)


def torchvision_weights(source: str, spec: NetworkSpec) -> tuple[str, dict[str, Tensor]]:
    """What torchvision's weights are called, and the weights under the names of `Network`.

    Parameters
    ----------
    source : {"coco", "imagenet"}
        The whole reference network, or a ResNet.
    spec : NetworkSpec
        Of the network they are for.

    Raises
    ------
    TrainingError
        If there are no such weights for this network, or they cannot be reached.
    """
    if spec.body == "compact" or spec.downsampling != "3x3":
        raise TrainingError(f'torchvision has no weights for the body {spec.body}, downsampling "{spec.downsampling}"')
    if source == "imagenet":
        return f"torchvision's ImageNet weights of {spec.body}", named_as_ours(_fetched(IMAGENET[spec.body]))
    if spec.body != "resnet50":
        raise TrainingError(f"torchvision has COCO weights for resnet50 alone, not for {spec.body}")
    second = spec.pyramid_norm
    weights: Any = (FasterRCNN_ResNet50_FPN_V2_Weights if second else FasterRCNN_ResNet50_FPN_Weights).COCO_V1
    name = "fasterrcnn_resnet50_fpn_v2" if second else "fasterrcnn_resnet50_fpn"
    return f"torchvision's COCO weights of {name}", named_as_ours(_fetched(weights))


def _fetched(weights: Any) -> dict[str, Tensor]:
    """Torchvision's weights from its cache or its server."""
    kept = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(weights.url).name
    try:
        if not kept.exists():  # torch's own download would wait for ever
            urllib.request.urlopen(urllib.request.Request(weights.url, method="HEAD"), timeout=PATIENCE).close()
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise TrainingError(
            f"{weights.url} cannot be reached ({_short(error)}): fetch it where there is a network, and start with "
            f'source = "file", path = "{kept.name}"'
        ) from error
    return state


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
