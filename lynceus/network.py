"""Faster R-CNN v2 and its variants, built from a NetworkSpec."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import Conv2dNormActivation

from lynceus.background import BackgroundSpec
from lynceus.bodies import CompactBody, norm_layer, resnet_body
from lynceus.merge import Suppression
from lynceus.pooling import BoxPooling
from lynceus.precision import lowered
from lynceus.regions import BoxHeads, ProposalNetwork
from lynceus.spec import Spec


class SamplingSpec(Spec):
    """Which anchors and proposals a training step looks at.

    Attributes
    ----------
    foreground_iou, background_iou : float
        An anchor above the first is a source, below the second background, between them neither.
    anchors, proposals : int
        At most so many of a tile enter the loss of the first and the second stage.
    candidates, kept : int
        While training: best anchors a level that enter suppression, and proposals that leave it.
    proposal_score : float
        Lowest objectness of a proposal while training; a young network is sure of nothing.
    suppression : Suppression
        Between proposals while training.
    ignore_cover : float
        An anchor this much inside an ignore region takes no loss.
    background : BackgroundSpec
        How much background counts; less where catalogues lack sources.
    """

    foreground_iou: float = 0.5
    background_iou: float = 0.3
    anchors: int = 512
    proposals: int = 192
    candidates: int = 1200
    kept: int = 2500
    proposal_score: float = 0.02
    suppression: Suppression = Suppression(by="iou", threshold=0.5)
    ignore_cover: float = 0.5
    background: BackgroundSpec = BackgroundSpec()


class NetworkSpec(Spec):
    """Everything that shapes a network.

    Attributes
    ----------
    body : {"resnet18", "resnet34", "resnet50", "resnet101", "compact"}
        A ResNet as in torchvision, or a narrow one with two stride-2 stem convolutions.
    downsampling : {"3x3", "1x1"}
        The convolution of a ResNet-50's or -101's block that has the stride: the second, as torchvision's
        weights are, or the first, as He et al. (2016) had it and some published weights are.
    channels : int
        Input channels. A tile of one channel is given to all of them.
    classes : tuple of str
        Names of the classes, background not among them.
    norm : {"batch", "frozen", "group"}
        Normalisation layers.
    pyramid_norm : bool
        Whether the pyramid and the box head's convolutions have them too, or biases instead.
    widths, blocks : tuple of int
        Channels and residual blocks of the compact body's stages, strides 4, 8, 16, ...
    pyramid : int
        Channels of the feature pyramid.
    anchors : tuple of tuple of float
        Sides of the anchors at each pyramid level, in pixels; even, because torchvision rounds half sides.
    ratios : tuple of float
        Height over width of the anchors.
    rpn_depth : int
        Convolutions in the proposal head.
    head_convolutions, head_units : tuple of int
        Channels of the box head's convolutions, and units of its dense layers.
    pooled : int
        Side of the pooled features of a proposal.
    candidates : int
        Best anchors a level that enter suppression.
    proposals, detections : int
        Caps a tile. What is kept below them follows what is there: every proposal with
        objectness over `proposal_score`, every detection over `detection_score`.
    proposal_score, detection_score : float
        Lowest score that is kept.
    proposal_suppression, detection_suppression : Suppression
        When two proposals, or two detections, are one.
    vote : float
        A detection's box is the mean of all that overlap it by more than this IoU; 0 to take it as it is.
    sampling : SamplingSpec
        Used in training alone.
    """

    body: Literal["resnet18", "resnet34", "resnet50", "resnet101", "compact"] = "compact"
    downsampling: Literal["3x3", "1x1"] = "3x3"
    channels: int = Field(1, gt=0)
    classes: tuple[str, ...] = ("source",)
    norm: Literal["batch", "frozen", "group"] = "batch"
    pyramid_norm: bool = True
    widths: tuple[int, ...] = (32, 64, 96, 128)
    blocks: tuple[int, ...] = (2, 2, 2, 1)
    pyramid: int = 64
    anchors: tuple[tuple[float, ...], ...] = ((6, 10, 16), (22, 30, 40), (54, 74, 100), (120, 150, 180))
    ratios: tuple[float, ...] = (1.0,)
    rpn_depth: int = 1
    head_convolutions: tuple[int, ...] = ()
    head_units: tuple[int, ...] = (256,)
    pooled: int = 7
    candidates: int = 8000
    proposals: int = 5000
    detections: int = 2500
    proposal_score: float = 0.2
    detection_score: float = 0.05
    proposal_suppression: Suppression = Suppression(by="iou", threshold=0.4)
    detection_suppression: Suppression = Suppression(by="centre", threshold=0.25)
    vote: float = Field(0.3, ge=0, le=1)
    sampling: SamplingSpec = SamplingSpec()

    @model_validator(mode="after")
    def _levels_agree(self) -> "NetworkSpec":
        levels = len(self.widths) if self.body == "compact" else 5
        if len(self.anchors) != levels or len(self.blocks) != len(self.widths):
            raise ValueError(f"{self.body} has {levels} pyramid levels; anchors, widths and blocks must agree")
        if not self.classes:
            raise ValueError("a network needs at least one class")
        return self


RESNET50_V2 = NetworkSpec(
    body="resnet50",
    pyramid=256,
    anchors=((6, 10, 14), (18, 24, 30), (38, 48, 60), (74, 90, 110), (130, 160, 200)),
    rpn_depth=2,
    head_convolutions=(256, 256, 256, 256),
    head_units=(1024,),
)
"""The reference: `fasterrcnn_resnet50_fpn_v2` with one input channel and anchors for sources of 4 to 128 px."""

RESNET50_V1 = RESNET50_V2.model_copy(
    update={"pyramid_norm": False, "rpn_depth": 1, "head_convolutions": (), "head_units": (1024, 1024)}
)
"""Its predecessor, `fasterrcnn_resnet50_fpn`: no norms in the pyramid, two dense layers in the box head."""


@dataclass(frozen=True, eq=False)
class RawDetections:
    """What the network says of one tile, on its device.

    Attributes
    ----------
    boxes : Tensor, shape (N, 4), float32
        Edge coordinates of the tile.
    scores : Tensor, shape (N,)
        By falling score.
    labels : Tensor, shape (N,), int64
        Index into the class list, from 0.
    capped : bool
        True where a cap, and not a score, ended the list.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    capped: bool


class Network(nn.Module):
    """A Faster R-CNN that takes tiles as they are: no resizing, no mean or standard deviation.

    The parameters are named as torchvision names them, so its weights load.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dtype = torch.float32
        self.backbone = _body(spec)
        self.rpn = _proposal_network(spec)
        self.roi_heads = _box_heads(spec)

    def forward(self, tiles: Tensor) -> list[RawDetections]:
        """Find sources in normalised tiles.

        Parameters
        ----------
        tiles : Tensor, shape (B, C, T, T)
            Normalised (see `normalise`), C the network's channels or 1; T a multiple of the coarsest stride.

        Returns
        -------
        list of RawDetections
            One a tile.
        """
        images, features, objectness, offsets = self.dense(tiles)
        proposals, capped = self.rpn.select(images, objectness, offsets)
        found, _ = self.roi_heads(features, proposals, images.image_sizes)
        return [
            RawDetections(
                one["boxes"], one["scores"], one["labels"] - 1, cut or len(one["boxes"]) >= self.spec.detections
            )
            for one, cut in zip(found, capped, strict=True)
        ]

    def dense(self, tiles: Tensor) -> tuple[ImageList, dict[str, Tensor], list[Tensor], list[Tensor]]:
        """The part whose shapes do not depend on what is seen: `features`, and objectness and offsets of each level."""
        with lowered(tiles.device, self.dtype):
            images, features = self.features(tiles)
            return images, features, *self.rpn.head(list(features.values()))

    def calculate_in(self, dtype: torch.dtype) -> "Network":
        """Set the format of convolutions and dense layers when serving; boxes and scores stay float32."""
        self.dtype = self.roi_heads.dtype = dtype
        return self

    def losses(self, tiles: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Losses of both stages, in training mode.

        Parameters
        ----------
        tiles : Tensor, shape (B, C, T, T)
            Normalised.
        targets : list of dict
            A tile: `boxes` (N, 4), `labels` (N,) from 1, `ignored` (M, 4), and where pixels shall be ignored `hidden`
            (T, T) bool.

        Returns
        -------
        dict of str to Tensor
            Four scalars.
        """
        images, features = self.features(tiles)
        proposals, first = self.rpn(images, features, targets)
        _, second = self.roi_heads(features, proposals, images.image_sizes, targets)
        return {**first, **second}

    def features(self, tiles: Tensor) -> tuple[ImageList, dict[str, Tensor]]:
        """Tiles as torchvision's stages want them, and their pyramid.

        Parameters
        ----------
        tiles : Tensor, shape (B, C, T, T)
            Normalised; C the network's channels, or 1.

        Returns
        -------
        images : ImageList
            The tiles and their sizes.
        features : dict of str to Tensor
            Level to features (B, pyramid, T / stride, T / stride).

        Raises
        ------
        ValueError
            If the tiles have neither one channel nor the network's.
        """
        count, channels, height, width = tiles.shape
        if channels not in (1, self.spec.channels):
            raise ValueError(f"tiles of {channels} channels for a network of {self.spec.channels}")
        tiles = tiles.expand(-1, self.spec.channels, -1, -1)
        return ImageList(tiles, [(height, width)] * count), self.backbone(tiles)


def _body(spec: NetworkSpec) -> nn.Module:
    norm = norm_layer(spec.norm)
    pyramid_norm = norm if spec.pyramid_norm else None
    if spec.body == "compact":
        return CompactBody(spec.channels, spec.pyramid, spec.widths, spec.blocks, norm, pyramid_norm)
    return resnet_body(spec.body, spec.channels, spec.pyramid, norm, pyramid_norm, spec.downsampling)


def _proposal_network(spec: NetworkSpec) -> ProposalNetwork:
    anchors = AnchorGenerator(spec.anchors, (spec.ratios,) * len(spec.anchors))
    sampling = spec.sampling
    return ProposalNetwork(
        anchors,
        RPNHead(spec.pyramid, anchors.num_anchors_per_location()[0], conv_depth=spec.rpn_depth),
        fg_iou_thresh=sampling.foreground_iou,
        bg_iou_thresh=sampling.background_iou,
        batch_size_per_image=sampling.anchors,
        positive_fraction=0.5,
        pre_nms_top_n={"training": sampling.candidates, "testing": spec.candidates},
        post_nms_top_n={"training": sampling.kept, "testing": spec.proposals},
        score_thresh=spec.proposal_score,
        suppression=spec.proposal_suppression,
        training_score=sampling.proposal_score,
        training_suppression=sampling.suppression,
        ignore_cover=sampling.ignore_cover,
        background=sampling.background,
    )


def _box_heads(spec: NetworkSpec) -> BoxHeads:
    levels = [str(level) for level in range(len(spec.widths) if spec.body == "compact" else 4)]
    norm = norm_layer(spec.norm) if spec.pyramid_norm else None
    head = FastRCNNConvFCHead(
        (spec.pyramid, spec.pooled, spec.pooled), list(spec.head_convolutions), list(spec.head_units), norm_layer=norm
    )
    return BoxHeads(
        BoxPooling(levels, output_size=spec.pooled, sampling_ratio=2),
        head,
        FastRCNNPredictor(spec.head_units[-1], len(spec.classes) + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=spec.sampling.proposals,
        positive_fraction=0.5,
        bbox_reg_weights=None,
        score_thresh=spec.detection_score,
        detections_per_img=spec.detections,
        suppression=spec.detection_suppression,
        vote=spec.vote,
        ignore_cover=spec.sampling.ignore_cover,
        background=spec.sampling.background,
    )


def fold_batch_norms(network: nn.Module) -> None:
    """Fold every batch norm that follows a convolution in a sequence into it; evaluation mode only."""
    for module in list(network.modules()):
        if not isinstance(module, Conv2dNormActivation) or len(module) < 2:
            continue
        convolution, norm = module[0], module[1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module[0] = fuse_conv_bn_eval(convolution, norm)
            module[1] = nn.Identity()
