"""Where a network's weights start from: nowhere, torchvision, a file, or another bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import model_validator
from torch import Tensor

from lynceus.network import Network
from lynceus.spec import Spec
from training.errors import TrainingError
from training.fitting.foreign import PREDICTOR, bundle_weights, file_weights, torchvision_weights

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class StartSpec(Spec):
    """Where the weights start from.

    Attributes
    ----------
    source : {"random", "coco", "imagenet", "file", "bundle"}
        Nowhere; torchvision's weights for COCO (the reference networks alone) or for ImageNet (the body of any
        ResNet); a local file; or the folder of a bundle.
    path : str
        Of the file (`.pth`, `.pt`, `.safetensors` or `.npz`) or of the bundle's folder `<name>/<version>/`.
    channels : {"mean", "replicate", "random"}
        The first convolution, where the tiles have other channels than the weights were made for: each channel gets the
        mean of the filters; or what a network answers that is given the mean of the channels in each of its own; or
        random filters.
    """

    source: Literal["random", "coco", "imagenet", "file", "bundle"] = "random"
    path: str = ""
    channels: Literal["mean", "replicate", "random"] = "mean"

    @model_validator(mode="after")
    def _path_agrees(self) -> "StartSpec":
        if (self.source in ("file", "bundle")) != bool(self.path):
            raise ValueError('a path goes with source = "file" or "bundle", and these need one')
        return self


def start(network: Network, spec: StartSpec) -> str:
    """Load weights into a network, in place.

    Parameters
    ----------
    network : Network
        What does not fit the weights stays random: heads of other classes or anchors, another pyramid.
    spec : StartSpec
        Where they come from.

    Returns
    -------
    str
        A sentence: what was loaded, and what was left random.

    Raises
    ------
    TrainingError
        If the weights cannot be reached or read, or are not of the network's body.
    BundleError
        If a bundle is damaged.
    """
    if spec.source == "random":
        return "All weights are random."
    label, weights = found_weights(network, spec)
    own = network.state_dict()
    loaded, changed = fitted(own, weights, spec.channels)
    _refuse_another_body(own, loaded, weights, label, spec.channels)
    network.load_state_dict({**own, **loaded})
    return _sentence(own, loaded, label, changed, spec.channels)


def found_weights(network: Network, spec: StartSpec) -> tuple[str, dict[str, Tensor]]:
    """What the weights are called, and the weights under the network's own names."""
    if spec.source == "file":
        return f"the file {spec.path}", file_weights(Path(spec.path), network.spec)
    if spec.source == "bundle":
        weights, unknown = bundle_weights(Path(spec.path), network)
        return f"the bundle {spec.path}" + (f" (which knows no {' or '.join(unknown)})" if unknown else ""), weights
    return torchvision_weights(spec.source, network.spec)


def fitted(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], how: str) -> tuple[dict[str, Tensor], str]:
    """The weights that fit by name and shape, the first convolution adapted.

    Parameters
    ----------
    own : mapping of str to Tensor
        The network's present state.
    weights : mapping of str to Tensor
        What is offered.
    how : {"mean", "replicate", "random"}
        See `StartSpec.channels`.

    Returns
    -------
    loaded : dict of str to Tensor
        To put in the place of the present state.
    changed : str
        What was done to the first convolution; empty where its channels agree.
    """
    first = first_convolution(own)
    loaded = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    given = weights.get(first)
    wanted = own[first].shape[1]
    if given is None or first in loaded or given.shape[0] != len(own[first]) or given.shape[2:] != own[first].shape[2:]:
        return loaded, ""
    if how != "random":
        loaded[first] = adapted(given, wanted, how)
    return loaded, f"{given.shape[1]} input channels became {wanted} ({how})"


def first_convolution(own: Mapping[str, Tensor]) -> str:
    """The name of the weights that see the tile."""
    return next(name for name in ("backbone.body.conv1.weight", "backbone.stem.0.0.weight") if name in own)


def adapted(filters: Tensor, channels: int, how: str) -> Tensor:
    """Filters (F, C, K, K) for another number of channels (F, channels, K, K); see `StartSpec.channels`."""
    one = filters.mean(dim=1, keepdim=True) if how == "mean" else filters.sum(dim=1, keepdim=True) / channels
    return one.repeat(1, channels, 1, 1)


def _refuse_another_body(
    own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], weights: Mapping[str, Tensor], label: str, how: str
) -> None:
    """Refuse weights that leave a hole in the body: a network half of it random is no start."""
    free = {first_convolution(own)} if how == "random" else set()
    for name in own:
        if _part(name) != "body" or name in loaded or name in free or name.endswith(STATISTICS):
            continue
        there = f"of shape {tuple(weights[name].shape)}" if name in weights else "not there"
        raise TrainingError(
            f"{label} is not of this network's body: {name} is {there}, where {tuple(own[name].shape)} is wanted; "
            "choose the body (and its widths) that the weights were made for"
        )


def _sentence(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], label: str, changed: str, how: str) -> str:
    """What was loaded, in words."""
    held = [name for name in own if not name.endswith("num_batches_tracked")]
    count = sum(own[name].numel() for name in held if name in loaded)
    total = sum(own[name].numel() for name in held)
    missing = sorted({_part(name) for name in held if name not in loaded})
    parts = [f"{count / 1e6:.2f} of {total / 1e6:.2f} million numbers come from {label}"]
    parts += [changed] if changed else []
    parts.append(f"left random: {', '.join(missing)}" if missing else "nothing is left random")
    return "; ".join(parts) + "."


def _part(name: str) -> str:
    """The part of a network that a weight belongs to, for people."""
    parts = {
        "backbone.fpn.": "pyramid",
        "backbone.": "body",
        "rpn.head.conv.": "proposal head",
        "rpn.head.": "proposal scores and boxes",
        "roi_heads.box_head.": "box head",
        PREDICTOR: "classes and boxes",
    }
    return next(part for prefix, part in parts.items() if name.startswith(prefix))
