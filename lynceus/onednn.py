"""Layers that ask oneDNN where torch would not: on one thread torch multiplies and convolves 1 x 1 by other means."""

import torch
from torch import Tensor, nn


class OneDNNConv2d(nn.Conv2d):
    """A 1 x 1 convolution without padding, for serving; torch's own takes twice as long on one thread."""

    def forward(self, input: Tensor) -> Tensor:
        """Features (B, C, H, W) to features."""
        if input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        return torch.mkldnn_convolution(input, self.weight, self.bias, [0, 0], self.stride, [1, 1], self.groups)


class OneDNNLinear(nn.Linear):
    """A dense layer for serving; on AMD's processors MKL, which torch takes, is at half of their speed."""

    def forward(self, input: Tensor) -> Tensor:
        """Features (N, inputs) to features (N, outputs)."""
        if input.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not len(input):
            return super().forward(input)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return product


def use_onednn(network: nn.Module) -> None:
    """Turn the 1 x 1 convolutions and dense layers of a network into oneDNN's, where torch has it; for serving only."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for module in network.modules():
        if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.padding == (0, 0):
            module.__class__ = OneDNNConv2d
        elif type(module) is nn.Linear:
            module.__class__ = OneDNNLinear
