"""What is background to learn from, and how much it counts."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softplus
from torchvision.ops import box_area, box_iou, clip_boxes_to_image

from lynceus.spec import Spec


def cover(anchors: Tensor, ignored: Tensor) -> Tensor:
    """The largest share of each anchor's area that one ignore region covers.

    Parameters
    ----------
    anchors : Tensor, shape (N, 4)
        Anchors or proposals.
    ignored : Tensor, shape (M, 4)
        Ignore regions.

    Returns
    -------
    Tensor, shape (N,)
        Between 0 and 1; 0 where there are no regions.
    """
    if not len(ignored):
        return anchors.new_zeros(len(anchors))
    low = torch.maximum(anchors[:, None, :2], ignored[None, :, :2])
    high = torch.minimum(anchors[:, None, 2:], ignored[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)  # (N, M)
    area: Tensor = box_area(anchors).clamp(min=1e-6)
    return (shared / area[:, None]).amax(dim=1)


def hidden_cover(anchors: Tensor, hidden: Tensor) -> Tensor:
    """The share of what a tile shows of each anchor that a pixel mask covers.

    Parameters
    ----------
    anchors : Tensor, shape (N, 4)
        Anchors or proposals.
    hidden : Tensor, shape (T, T), bool
        True where nothing shall be learned, on a trail for one.

    Returns
    -------
    Tensor, shape (N,)
        Between 0 and 1; 0 for an anchor outside the tile.

    Notes
    -----
    Between its corners an integral image of pixels is bilinear, so the area is exact for fractional edges too.
    """
    sums = hidden.new_zeros([side + 1 for side in hidden.shape], dtype=torch.float64)
    sums[1:, 1:] = hidden.double().cumsum(0).cumsum(1)
    shown: Tensor = clip_boxes_to_image(anchors.double(), tuple(hidden.shape))
    x_min, y_min, x_max, y_max = shown.unbind(dim=1)
    inside = _sampled(sums, x_max, y_max) - _sampled(sums, x_min, y_max)
    inside = inside - _sampled(sums, x_max, y_min) + _sampled(sums, x_min, y_min)
    area: Tensor = box_area(shown).clamp(min=1e-6)
    return (inside / area).to(anchors.dtype)


def _sampled(sums: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """An integral image (H + 1, W + 1) at positions x, y of (N,), bilinear."""
    height, width = (side - 1 for side in sums.shape)
    column, row = x.long().clamp(max=width - 1), y.long().clamp(max=height - 1)
    right, down = x - column, y - row
    upper = sums[row, column] * (1 - right) + sums[row, column + 1] * right
    lower = sums[row + 1, column] * (1 - right) + sums[row + 1, column + 1] * right
    return upper * (1 - down) + lower * down


def ignored_share(anchors: Tensor, ignored: Tensor, hidden: Tensor | None) -> Tensor:
    """The larger of `cover` and, where there is a mask, `hidden_cover`; shape (N,)."""
    share = cover(anchors, ignored)
    return share if hidden is None else torch.maximum(share, hidden_cover(anchors, hidden))


class BackgroundSpec(Spec):
    """How much background counts where catalogues lack sources; by default all of it does, fully.

    Attributes
    ----------
    floor : float
        Weight of background that overlaps no source; 1 for no soft sampling. Wu et al. (2018) have 0.25.
    steepness, decay : float
        The weight rises to 1 with the best overlap `o` (IoU) with a source as
        `floor + (1 - floor) * exp(-steepness * exp(-decay * o))`.
    recalibrate : float
        Background that the network gives a higher probability than this of being a source is taught as one
        (Zhang et al. 2020); 1 for never. A young network is sure of nothing, so 0.5 would feed on itself.
    """

    floor: float = Field(1.0, ge=0, le=1)
    steepness: float = Field(50.0, gt=0)
    decay: float = Field(20.0, gt=0)
    recalibrate: float = Field(1.0, ge=0.5, le=1)

    @property
    def plain(self) -> bool:
        """Whether all background counts fully."""
        return self.floor >= 1 and self.recalibrate >= 1


def softness(boxes: Tensor, sources: Tensor, spec: BackgroundSpec) -> Tensor:
    """The weight each box has as background.

    Parameters
    ----------
    boxes : Tensor, shape (N, 4)
        Anchors or proposals.
    sources : Tensor, shape (M, 4)
        Boxes of the tile's sources.
    spec : BackgroundSpec
        The curve.

    Returns
    -------
    Tensor, shape (N,)
        Between `floor` and 1.
    """
    overlap = box_iou(boxes, sources).amax(dim=1) if len(sources) else boxes.new_zeros(len(boxes))
    return spec.floor + (1 - spec.floor) * torch.exp(-spec.steepness * torch.exp(-spec.decay * overlap))


def objectness_loss(logits: Tensor, labels: Tensor, weights: Tensor, spec: BackgroundSpec) -> Tensor:
    """Binary cross-entropy of the first stage, background weighted.

    Parameters
    ----------
    logits, labels, weights : Tensor, shape (N,)
        Of the sampled anchors: objectness, 1 or 0, and `softness`.
    spec : BackgroundSpec
        When background is taught as source.

    Returns
    -------
    Tensor, shape ()
        The mean.
    """
    logits = logits.float()  # also under autocast
    loss = binary_cross_entropy_with_logits(logits, labels, reduction="none")
    sure = logits.detach().sigmoid() > spec.recalibrate
    return _weighted(loss, softplus(-logits), labels > 0, sure, weights)


def class_loss(logits: Tensor, labels: Tensor, weights: Tensor, spec: BackgroundSpec) -> Tensor:
    """Cross-entropy of the second stage, background weighted.

    Parameters
    ----------
    logits : Tensor, shape (N, C)
        Of the sampled proposals; column 0 is the background.
    labels : Tensor, shape (N,), int64
        Classes, 0 the background.
    weights : Tensor, shape (N,)
        `softness`.
    spec : BackgroundSpec
        When background is taught as source, of whichever class.

    Returns
    -------
    Tensor, shape ()
        The mean.
    """
    logits = logits.float()  # also under autocast
    loss = cross_entropy(logits, labels, reduction="none")
    mirrored = logits.logsumexp(dim=1) - logits[:, 1:].logsumexp(dim=1)  # -log(1 - p(background))
    sure = 1 - logits.detach().softmax(dim=1)[:, 0] > spec.recalibrate
    return _weighted(loss, mirrored, labels > 0, sure, weights)


def _weighted(loss: Tensor, mirrored: Tensor, source: Tensor, sure: Tensor, weights: Tensor) -> Tensor:
    background = weights * torch.where(sure, mirrored, loss)
    return torch.where(source, loss, background).mean()
