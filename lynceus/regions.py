"""The two region stages of Faster R-CNN, as torchvision has them plus what star fields need.

Suppression may go by centre distance, proposals follow what is there, box decoding stays in
float32 under autocast, and ignore regions take no loss.
"""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, max_pool2d
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import batched_nms, box_area, box_iou, clip_boxes_to_image

from lynceus.merge import Suppression

SMALLEST_SIDE = 0.5  # pixels; a thinner box is no source
TOUCHING = 1e-6  # an IoU above this means that two shrunken boxes meet


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, spec: Suppression) -> Tensor:
    """Drop the lower score of every pair that is one source.

    Parameters
    ----------
    boxes : Tensor, shape (N, 4)
        Edge coordinates.
    scores : Tensor, shape (N,)
        The higher one stays.
    groups : Tensor, shape (N,)
        Only boxes of one group suppress each other.
    spec : Suppression
        By IoU or by centre distance.

    Returns
    -------
    Tensor, shape (M,)
        Indices to keep, by falling score.

    Notes
    -----
    Centres closer than `t` mean sides on both axes is the same as boxes shrunk by `t` about
    their centres overlapping, so torchvision's own NMS does both.
    """
    if spec.by == "iou":
        return batched_nms(boxes, scores, groups, spec.threshold)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    shrunk = torch.cat([centres - sides * spec.threshold / 2, centres + sides * spec.threshold / 2], dim=1)
    return batched_nms(shrunk, scores, groups, TOUCHING)


class Float32BoxCoder(BoxCoder):
    """Decodes boxes in float32: half a pixel is lost in float16 past 1024, a quarter in bfloat16 past 64."""

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (N, 4 x classes) from offsets (N, 4 x classes) and reference boxes (N, 4)."""
        return super().decode_single(rel_codes.float(), boxes.float())


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
    return (shared / box_area(anchors).clamp(min=1e-6)[:, None]).amax(dim=1)


class ProposalNetwork(RegionProposalNetwork):
    """Region proposals: anchors in, boxes that may hold a source out.

    Attributes
    ----------
    suppression, training_suppression : Suppression
        Between proposals of one pyramid level, when serving and when training.
    training_score : float
        Lowest objectness of a proposal when training.
    ignore_cover : float
        An anchor this much inside an ignore region is no background.
    """

    def __init__(
        self,
        *args: object,
        suppression: Suppression,
        training_suppression: Suppression,
        training_score: float,
        ignore_cover: float,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, nms_thresh=suppression.threshold, **kwargs)
        self.suppression = suppression
        self.training_suppression = training_suppression
        self.training_score = training_score
        self.ignore_cover = ignore_cover
        self.box_coder: Float32BoxCoder = Float32BoxCoder(self.box_coder.weights)

    def propose(self, images: ImageList, features: dict[str, Tensor]) -> tuple[list[Tensor], list[bool]]:
        """Where sources may be, when serving.

        Parameters
        ----------
        images : ImageList
            B tiles.
        features : dict of str to Tensor
            The pyramid.

        Returns
        -------
        proposals : list of Tensor, shape (P, 4)
            One a tile, by falling objectness.
        capped : list of bool
            True for a tile where a cap, and not the score, ended the list.
        """
        levels = list(features.values())
        objectness, offsets = self.head(levels)
        objectness = [silenced(level, images.tensors) for level in objectness]
        anchors = self.anchor_generator(images, levels)
        counts = [level[0].numel() for level in objectness]
        objectness, offsets = concat_box_prediction_layers(objectness, offsets)
        boxes = self.box_coder.decode(offsets, anchors).view(len(anchors), -1, 4)
        kept = self._thinned(boxes, objectness, images.image_sizes, counts)
        return [proposals for proposals, _, _ in kept], [capped for _, _, capped in kept]

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Keep the best of each tile: proposals (B, A, 4), objectness (B * A, 1)."""
        kept = self._thinned(proposals, objectness, image_shapes, num_anchors_per_level)
        return [boxes for boxes, _, _ in kept], [scores for _, scores, _ in kept]

    def _thinned(
        self, boxes: Tensor, objectness: Tensor, shapes: list[tuple[int, int]], counts: list[int]
    ) -> list[tuple[Tensor, Tensor, bool]]:
        """Boxes, scores and whether a cap was hit, a tile; boxes (B, A, 4), objectness (B * A, 1)."""
        scores = objectness.detach().float().reshape(len(shapes), -1).sigmoid()
        levels = torch.arange(len(counts), device=scores.device).repeat_interleave(
            torch.tensor(counts, device=scores.device)
        )
        best = self._get_top_n_idx(scores, counts)  # (B, K)
        kept = []
        for tile, index in enumerate(best):
            chosen, order, capped = self._keep(boxes[tile][index], scores[tile][index], levels[index], shapes[tile])
            dropped = int((scores[tile] >= self._lowest).sum()) > int((scores[tile][index] >= self._lowest).sum())
            kept.append((chosen, order, capped or dropped))
        return kept

    @property
    def _lowest(self) -> float:
        return self.training_score if self.training else float(self.score_thresh)

    def _keep(
        self, boxes: Tensor, scores: Tensor, levels: Tensor, shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor, bool]:
        boxes = clip_boxes_to_image(boxes, shape)
        sides = boxes[:, 2:] - boxes[:, :2]
        usable = (sides >= SMALLEST_SIDE).all(dim=1) & (scores >= self._lowest)
        boxes, scores, levels = boxes[usable], scores[usable], levels[usable]
        keep = suppress(boxes, scores, levels, self.training_suppression if self.training else self.suppression)
        most = self.post_nms_top_n()
        return boxes[keep[:most]], scores[keep[:most]], len(keep) > most

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label anchors 1 (source), 0 (background) or -1 (no loss); ignore regions never void a source."""
        labels, matched = super().assign_targets_to_anchors(anchors, targets)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & (cover(anchor, target["ignored"]) >= self.ignore_cover)] = -1
        return labels, matched


def silenced(objectness: Tensor, tiles: Tensor) -> Tensor:
    """Let no proposal come from where a tile has nothing to see.

    Padding and masked areas are exactly 0, which noise never is. No training frame has large ones, and the network
    makes thousands of proposals of them, all refused later, at a cost.

    Parameters
    ----------
    objectness : Tensor, shape (B, A, H, W)
        Of one level of the pyramid, as logits.
    tiles : Tensor, shape (B, C, T, T)
        Normalised.

    Returns
    -------
    Tensor, shape (B, A, H, W)
        Minus infinity in the cells that are dark, and whose neighbours are.
    """
    lit = adaptive_max_pool2d(tiles.abs().amax(dim=1, keepdim=True), list(objectness.shape[-2:]))
    lit = max_pool2d(lit, 3, stride=1, padding=1)  # (B, 1, H, W)
    return objectness.masked_fill(lit == 0, -torch.inf)


class BoxHeads(RoIHeads):
    """The second stage: proposals in, classed and refined boxes out.

    Attributes
    ----------
    suppression : Suppression
        Between detections of one class.
    vote : float
        Boxes that overlap a kept one by more than this IoU share in its place; 0 for none.
    ignore_cover : float
        A proposal this much inside an ignore region is no background.
    """

    def __init__(
        self, *args: object, suppression: Suppression, vote: float, ignore_cover: float, **kwargs: object
    ) -> None:
        super().__init__(*args, nms_thresh=suppression.threshold, **kwargs)
        self.suppression = suppression
        self.vote = vote
        self.ignore_cover = ignore_cover
        self.box_coder: Float32BoxCoder = Float32BoxCoder(self.box_coder.weights)
        self._ignored: list[Tensor] = []

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Sample proposals to train on, those inside ignore regions left out of the background."""
        self._ignored = [target["ignored"] for target in targets or []]
        return super().select_training_samples(proposals, targets)

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label proposals with their class, 0 (background) or -1 (no loss)."""
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        for label, proposal, ignored in zip(labels, proposals, self._ignored, strict=True):
            label[(label == 0) & (cover(proposal, ignored) >= self.ignore_cover)] = -1
        return matched, labels

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Score, refine and thin out: logits (P, C), offsets (P, 4 C), proposals a list of (P_b, 4)."""
        counts = [len(proposal) for proposal in proposals]
        boxes = self.box_coder.decode(box_regression, proposals).reshape(-1, class_logits.shape[-1], 4).split(counts)
        scores = class_logits.float().softmax(dim=-1).split(counts)
        found = [self._keep(*parts) for parts in zip(boxes, scores, image_shapes, strict=True)]
        return [boxes for boxes, _, _ in found], [scores for _, scores, _ in found], [label for _, _, label in found]

    def _keep(self, boxes: Tensor, scores: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        proposal, label = torch.where(scores[:, 1:] > self.score_thresh)  # column 0 is the background
        label = label + 1
        boxes, scores = clip_boxes_to_image(boxes[proposal, label], shape), scores[proposal, label]
        wide = (boxes[:, 2:] - boxes[:, :2] >= SMALLEST_SIDE).all(dim=1)
        boxes, scores, label = boxes[wide], scores[wide], label[wide]
        keep = suppress(boxes, scores, label, self.suppression)[: self.detections_per_img]
        return self._voted(keep, boxes, scores, label), scores[keep], label[keep]

    def _voted(self, keep: Tensor, boxes: Tensor, scores: Tensor, label: Tensor) -> Tensor:
        """Each kept box, moved to the weighted mean of those it overlaps (Gidaris & Komodakis 2015)."""
        if not self.vote or not len(keep):
            return boxes[keep]
        overlap = box_iou(boxes[keep], boxes) * (label[keep, None] == label)  # (K, N)
        weights = torch.where(overlap > self.vote, overlap * scores, 0.0)
        return weights @ boxes / weights.sum(dim=1, keepdim=True)
