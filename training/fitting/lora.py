"""Low-rank adaptation (Hu et al. 2021): a layer keeps its weights and learns a product of two thin matrices on top."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

DOWN, UP = "lora_down", "lora_up"


class LowRank(nn.Module):
    """What both kinds of adapted layer share; `weight` and `bias` stay named as they were, and frozen.

    Attributes
    ----------
    weight : Parameter, shape (outputs, ...)
        As it was before.
    lora_down : Parameter, shape (rank, inputs)
        Random at first; a convolution's inputs are flattened.
    lora_up : Parameter, shape (outputs, rank)
        Zero at first, so that the layer begins as it was.
    scale : float
        Of the product.
    """

    weight: Tensor
    lora_down: nn.Parameter
    lora_up: nn.Parameter
    scale: float

    def adapt(self, rank: int, scale: float) -> None:
        """Add the two matrices beside the layer's own weights."""
        inputs = self.weight[0].numel()
        self.lora_down = nn.Parameter(self.weight.new_empty(rank, inputs))
        self.lora_up = nn.Parameter(self.weight.new_zeros(len(self.weight), rank))
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))
        self.scale = scale

    def folded(self) -> Tensor:
        """The weights with the product in them, shaped as `weight`."""
        return self.weight + self.scale * (self.lora_up @ self.lora_down).view_as(self.weight)


class LowRankConv2d(LowRank, nn.Conv2d):
    """A convolution with a low-rank change of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Features (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return self._conv_forward(input, self.folded(), self.bias)


class LowRankLinear(LowRank, nn.Linear):
    """A dense layer with a low-rank change of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Features (B, inputs) to (B, outputs)."""
        return linear(input, self.folded(), self.bias)


def add_low_rank(module: nn.Module, rank: int, scale: float) -> None:
    """Adapt every convolution and dense layer inside a module, in place.

    Parameters
    ----------
    module : Module
        Its layers change class; their weights and names stay.
    rank : int
        Of the products; a layer with fewer inputs or outputs has fewer.
    scale : float
        Of the products.
    """
    for layer in module.modules():
        adapted = {nn.Conv2d: LowRankConv2d, nn.Linear: LowRankLinear}.get(type(layer))  # type: ignore[call-overload]
        if adapted is not None:
            layer.__class__ = adapted
            layer.adapt(min(rank, len(layer.weight), layer.weight[0].numel()), scale)


def folded_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module as it would be without adaptation: products folded into the weights they change."""
    state = {key: value for key, value in module.state_dict().items() if not key.endswith((DOWN, UP))}
    with torch.no_grad():
        for name, layer in module.named_modules():
            if isinstance(layer, LowRank):
                state[f"{name}.weight" if name else "weight"] = layer.folded()
    return state
