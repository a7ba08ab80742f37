"""The two region stages of Faster R-CNN, as torchvision has them plus what star fields need.

Suppression may go by centre distance, proposals follow what is there, box decoding stays in
float32 under autocast, and ignore regions take no loss.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, max_pool2d, smooth_l1_loss
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from lynceus.background import BackgroundSpec, class_loss, ignored_share, objectness_loss, softness
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
    background : BackgroundSpec
        How much background counts.
    """

    def __init__(
        self,
        *args: object,
        suppression: Suppression,
        training_suppression: Suppression,
        training_score: float,
        ignore_cover: float,
        background: BackgroundSpec,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, nms_thresh=suppression.threshold, **kwargs)
        self.suppression = suppression
        self.training_suppression = training_suppression
        self.training_score = training_score
        self.ignore_cover = ignore_cover
        self.background = background
        self._softness: list[Tensor] = []
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
            share = ignored_share(anchor, target["ignored"], target.get("hidden"))
            label[(label == 0) & (share >= self.ignore_cover)] = -1
        if not self.background.plain:
            pairs = zip(anchors, targets, strict=True)
            self._softness = [softness(anchor, target["boxes"], self.background) for anchor, target in pairs]
        return labels, matched

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Losses of objectness (B * A, 1) and offsets (B * A, 4); zero where every anchor is ignored."""
        if all((label < 0).all() for label in labels):
            return zero_of([objectness]), zero_of([pred_bbox_deltas])
        if self.background.plain:
            return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)
        sources, background = (torch.where(torch.cat(one))[0] for one in self.fg_bg_sampler(labels))
        sampled = torch.cat([sources, background])
        label, weights, wanted = torch.cat(labels), torch.cat(self._softness), torch.cat(regression_targets)
        offsets = smooth_l1_loss(pred_bbox_deltas[sources], wanted[sources], beta=1 / 9, reduction="sum")
        scores = objectness_loss(objectness.flatten()[sampled], label[sampled], weights[sampled], self.background)
        return scores, offsets / len(sampled)


def zero_of(tensors: Sequence[Tensor]) -> Tensor:
    """A float32 zero, shape (), that gives each tensor a gradient of zeros: processes that train together need one."""
    return torch.stack([(0 * tensor.float()).sum() for tensor in tensors]).sum()


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
    background : BackgroundSpec
        How much background counts.
    """

    def __init__(
        self,
        *args: object,
        suppression: Suppression,
        vote: float,
        ignore_cover: float,
        background: BackgroundSpec,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, nms_thresh=suppression.threshold, **kwargs)
        self.suppression = suppression
        self.vote = vote
        self.ignore_cover = ignore_cover
        self.box_coder: Float32BoxCoder = Float32BoxCoder(self.box_coder.weights)
        self.background = background
        self._ignored: list[Tensor] = []
        self._hidden: list[Tensor | None] = []

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections a tile when serving, losses when training."""
        if not self.training:
            return super().forward(features, proposals, image_shapes, targets)
        proposals, _, labels, offsets = self.select_training_samples(proposals, targets)
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        if not len(pooled):  # every proposal is ignored; the weights still get a gradient, of zero
            zero = zero_of([*features.values(), *self.parameters()])
            return [], {"loss_classifier": zero, "loss_box_reg": zero}
        scores, found = self.box_predictor(self.box_head(pooled))
        first, second = fastrcnn_loss(scores, found, labels, offsets)
        if not self.background.plain:
            boxes = [target["boxes"] for target in targets or []]
            weights = [softness(*pair, self.background) for pair in zip(proposals, boxes, strict=True)]
            first = class_loss(scores, torch.cat(labels), torch.cat(weights), self.background)
        return [], {"loss_classifier": first, "loss_box_reg": second}

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Sample proposals to train on, those inside ignore regions left out of the background."""
        self._ignored = [target["ignored"] for target in targets or []]
        self._hidden = [target.get("hidden") for target in targets or []]
        return super().select_training_samples(proposals, targets)

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label proposals with their class, 0 (background) or -1 (no loss)."""
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        masks = self._hidden or [None] * len(labels)
        for label, proposal, ignored, hidden in zip(labels, proposals, self._ignored, masks, strict=True):
            label[(label == 0) & (ignored_share(proposal, ignored, hidden) >= self.ignore_cover)] = -1
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
