"""The bodies of the network: a ResNet as in torchvision, or a narrow one, under a feature pyramid."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork, FrozenBatchNorm2d

NormLayer = Callable[[int], nn.Module]


def norm_layer(name: str) -> NormLayer:
    """The constructor of a normalisation layer: "batch", "frozen" or "group"."""
    layers: dict[str, NormLayer] = {
        "batch": nn.BatchNorm2d,
        "frozen": FrozenBatchNorm2d,
        "group": lambda channels: nn.GroupNorm(min(32, channels // 4), channels),
    }
    return layers[name]


def resnet_body(
    name: str, channels: int, pyramid: int, norm: NormLayer, pyramid_norm: NormLayer | None, downsampling: str
) -> nn.Module:
    """A torchvision ResNet under a feature pyramid of five levels, strides 4 to 64.

    Parameters
    ----------
    name : str
        "resnet18", "resnet34", "resnet50" or "resnet101".
    channels, pyramid : int
        Of the tiles, and of every pyramid level.
    norm, pyramid_norm : callable or None
        Make a normalisation layer of the body, and of the pyramid; None for none.
    downsampling : {"3x3", "1x1"}
        The convolution of a bottleneck that has the stride.
    """
    body = getattr(resnet, name)(weights=None, norm_layer=norm)
    if channels != body.conv1.in_channels:
        body.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    if downsampling == "1x1":
        stride_first(body)
    extractor = _resnet_fpn_extractor(body, trainable_layers=5, norm_layer=pyramid_norm)
    return _with_pyramid(extractor, pyramid, pyramid_norm)


def stride_first(body: nn.Module) -> None:
    """Move the stride of every bottleneck to its first convolution, where He et al. (2016) had it."""
    for module in body.modules():
        if isinstance(module, resnet.Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)


def _with_pyramid(extractor: Any, channels: int, norm: NormLayer | None) -> nn.Module:
    """Torchvision fixes the pyramid at 256 channels; another width gets a pyramid of its own."""
    if channels != extractor.out_channels:
        fpn = extractor.fpn
        widths = [block[0].in_channels for block in fpn.inner_blocks]
        extractor.fpn = FeaturePyramidNetwork(widths, channels, fpn.extra_blocks, norm_layer=norm)
        extractor.out_channels = channels
    return cast(nn.Module, extractor)


class CompactBody(nn.Module):
    """A narrow ResNet under a feature pyramid, strides 4, 8, 16, ...

    Parameters
    ----------
    channels, pyramid : int
        Of the tiles, and of every pyramid level.
    widths, blocks : tuple of int
        Channels and residual blocks of the stages.
    norm, pyramid_norm : callable or None
        Make a normalisation layer of the body, and of the pyramid; None for none.
    """

    def __init__(
        self,
        channels: int,
        pyramid: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        norm: NormLayer,
        pyramid_norm: NormLayer | None,
    ) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(
            Conv2dNormActivation(channels, first // 2, 3, stride=2, norm_layer=norm),
            Conv2dNormActivation(first // 2, first, 3, stride=2, norm_layer=norm),
        )
        self.stages = nn.ModuleList()
        previous = first
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            stride = 1 if stage == 0 else 2
            residuals = [ResidualBlock(previous, width, stride, norm)]
            residuals += [ResidualBlock(width, width, 1, norm) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*residuals))
            previous = width
        self.fpn = FeaturePyramidNetwork(list(widths), pyramid, norm_layer=pyramid_norm)
        self.out_channels = pyramid

    def forward(self, tiles: Tensor) -> dict[str, Tensor]:
        """Tiles (B, C, T, T) to pyramid levels "0", "1", ... of (B, pyramid, T / 4 / 2^level, ...)."""
        features: OrderedDict[str, Tensor] = OrderedDict()
        signal = self.stem(tiles)
        for level, stage in enumerate(self.stages):
            signal = stage(signal)
            features[str(level)] = signal
        pyramid: dict[str, Tensor] = self.fpn(features)
        return pyramid


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: NormLayer) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            Conv2dNormActivation(inputs, outputs, 3, stride=stride, norm_layer=norm),
            Conv2dNormActivation(outputs, outputs, 3, norm_layer=norm, activation_layer=None),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = Conv2dNormActivation(
                inputs, outputs, 1, stride=stride, norm_layer=norm, activation_layer=None
            )

    def forward(self, signal: Tensor) -> Tensor:
        """Features (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return torch.relu(self.convolutions(signal) + self.shortcut(signal))


def stages(backbone: nn.Module) -> list[list[nn.Module]]:
    """The parts of a body from the tile upwards, the pyramid not among them.

    Parameters
    ----------
    backbone : Module
        Made by `resnet_body`, or a `CompactBody`.

    Returns
    -------
    list of list of Module
        The stem, then the stages by growing stride.
    """
    if isinstance(backbone, CompactBody):
        return [[backbone.stem], *([stage] for stage in backbone.stages)]
    body = cast(Any, backbone).body
    return [[body.conv1, body.bn1], [body.layer1], [body.layer2], [body.layer3], [body.layer4]]
