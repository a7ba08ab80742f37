"""The two region stages of Faster R-CNN, as torchvision has them plus what star fields need.

Suppression may go by centre distance, proposals follow what is there, box decoding stays in
float32 under autocast, and ignore regions take no loss.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, smooth_l1_loss
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou, clip_boxes_to_image, nms

from lynceus.background import BackgroundSpec, class_loss, ignored_share, objectness_loss, softness
from lynceus.merge import Suppression
from lynceus.precision import lowered

SMALLEST_SIDE = 0.5  # pixels; a thinner box is no source
GROWTH = 2.0  # a box may become so many times larger than its proposal
TOUCHING = 1e-6  # an IoU above this means that two shrunken boxes meet

_least_side: ContextVar[float] = ContextVar("least_side", default=0.0)


@contextmanager
def none_smaller(side: float) -> Iterator[None]:
    """A context in which no proposals are made for objects smaller than `side` pixels on their longer side."""
    token = _least_side.set(side)
    try:
        yield
    finally:
        _least_side.reset(token)


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
    boxes = boxes.double()  # so that a group may be moved far away from the others, and lose no digit by it
    if spec.by == "centre":
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        boxes = torch.cat([centres - sides * spec.threshold / 2, centres + sides * spec.threshold / 2], dim=1)
    if not len(boxes):
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    apart = groups * (boxes.max() - boxes.min() + 1)
    threshold = spec.threshold if spec.by == "iou" else TOUCHING
    return nms(boxes + apart[:, None], scores.double(), threshold)


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
        self._grids: dict[object, Tensor] = {}
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
        return self.select(images, *self.head(list(features.values())))

    def select(
        self, images: ImageList, objectness: list[Tensor], offsets: list[Tensor]
    ) -> tuple[list[Tensor], list[bool]]:
        """The same, of what the head says of each level: objectness (B, A, H, W) and offsets (B, 4 A, H, W)."""
        quiet = silenced([level.float() for level in objectness], images.tensors)
        counts = [level[0].numel() for level in quiet]
        anchors = self._grid(images, quiet)
        scores = torch.cat([_by_anchor(level, 1) for level in quiet], dim=1).squeeze(2).sigmoid()
        codes = torch.cat([_by_anchor(level, 4) for level in offsets], dim=1)

        def decoded(tile: Tensor, anchor: Tensor) -> Tensor:
            return self.box_coder.decode_single(codes[tile, anchor], anchors[anchor])

        kept = self._thinned(decoded, scores, images.image_sizes, counts)
        return [proposals for proposals, _, _ in kept], [capped for _, _, capped in kept]

    def _grid(self, images: ImageList, levels: list[Tensor]) -> Tensor:
        """All anchors of a tile (A, 4), level by level."""
        key = (images.tensors.shape[-2:], images.tensors.device)
        if key not in self._grids:
            self._grids[key] = self.anchor_generator(ImageList(images.tensors[:1], images.image_sizes[:1]), levels)[0]
        return self._grids[key]

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Keep the best of each tile: proposals (B, A, 4), objectness (B * A, 1)."""
        scores = objectness.detach().float().reshape(len(image_shapes), -1).sigmoid()
        kept = self._thinned(lambda *index: proposals[index], scores, image_shapes, num_anchors_per_level)
        return [boxes for boxes, _, _ in kept], [scores for _, scores, _ in kept]

    def _thinned(
        self,
        boxes: Callable[[Tensor, Tensor], Tensor],
        scores: Tensor,
        shapes: list[tuple[int, int]],
        counts: list[int],
    ) -> list[tuple[Tensor, Tensor, bool]]:
        """Boxes, scores and whether a cap was hit, a tile; `boxes` of tiles and anchors (N,), scores (B, A)."""
        tile, anchor = torch.where(scores >= self._lowest)
        ends = torch.tensor(counts, device=scores.device).cumsum(0)
        group = tile * len(counts) + torch.bucketize(anchor, ends, right=True)
        few = is_among_first(scores[tile, anchor], group, self.pre_nms_top_n())
        capped = _is_any(~few, tile, len(shapes))
        tile, anchor, group = tile[few], anchor[few], group[few]
        found, score = clip_boxes_to_image(boxes(tile, anchor), shapes[0]), scores[tile, anchor]
        sides = found[:, 2:] - found[:, :2]
        wide = (sides >= SMALLEST_SIDE).all(dim=1) & (sides.amax(dim=1) >= _least_side.get() / GROWTH)
        found, score, tile, group = found[wide], score[wide], tile[wide], group[wide]
        keep = suppress(found, score, group, self.training_suppression if self.training else self.suppression)
        found, score, tile = found[keep], score[keep], tile[keep]
        few = is_among_first(score, tile, self.post_nms_top_n())
        capped |= _is_any(~few, tile, len(shapes))
        parts = split_by_tile(tile[few], len(shapes), found[few], score[few])
        return [(*part, cut) for part, cut in zip(parts, capped.tolist(), strict=True)]

    @property
    def _lowest(self) -> float:
        return self.training_score if self.training else float(self.score_thresh)

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


def silenced(objectness: list[Tensor], tiles: Tensor) -> list[Tensor]:
    """Let no proposal come from where a tile has nothing to see.

    Padding and masked areas are exactly 0, which noise never is. No training frame has large ones, and the network
    makes thousands of proposals of them, all refused later, at a cost.

    Parameters
    ----------
    objectness : list of Tensor, shape (B, A, H, W)
        Of the levels of the pyramid, the finest first, as logits; each H and W divides that before it.
    tiles : Tensor, shape (B, C, T, T)
        Normalised.

    Returns
    -------
    list of Tensor, shape (B, A, H, W)
        Minus infinity in the cells that are dark, and whose neighbours are.
    """
    lit, quiet = _largest_in_blocks(tiles.abs().amax(dim=1, keepdim=True), objectness[0].shape[-1]), []
    if lit.all():
        return objectness
    for level in objectness:
        lit = _largest_in_blocks(lit, level.shape[-1])
        quiet.append(level.masked_fill(max_pool2d(lit, 3, stride=1, padding=1) == 0, -torch.inf))
    return quiet


def _largest_in_blocks(plane: Tensor, side: int) -> Tensor:
    """Planes (B, 1, T, T) to (B, 1, side, side); plain maxima are faster than a pooling that tells where."""
    block = plane.shape[-1] // side
    rows = plane.unflatten(2, (side, block)).amax(dim=3)
    return rows.unflatten(3, (side, block)).amax(dim=4)


def _by_anchor(maps: Tensor, size: int) -> Tensor:
    """What the head says of each anchor, (B, H W A, size), of maps (B, A size, H, W)."""
    return maps.permute(0, 2, 3, 1).reshape(len(maps), -1, size)


def is_among_first(scores: Tensor, groups: Tensor, most: int) -> Tensor:
    """Which of N scores are among the `most` highest of their group, (N,) bool."""
    if not len(groups) or torch.bincount(groups).max() <= most:
        return torch.ones_like(groups, dtype=torch.bool)
    order = scores.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    ordered = groups[order]
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(rank, dtype=torch.bool).scatter_(0, order, rank < most)


def split_by_tile(tile: Tensor, count: int, *columns: Tensor) -> list[tuple[Tensor, ...]]:
    """Columns of N rows, of which each is of a tile, as parts of them for each of `count` tiles, in the same order."""
    order, rows = tile.argsort(stable=True), torch.bincount(tile, minlength=count).tolist()
    return list(zip(*(column[order].split(rows) for column in columns), strict=True))


def tile_of(parts: Sequence[Tensor]) -> Tensor:
    """Which tile each row of the concatenated parts, one a tile, is of, (N,)."""
    counts = torch.tensor([len(part) for part in parts], device=parts[0].device)
    return torch.repeat_interleave(counts)


def _is_any(hits: Tensor, tile: Tensor, count: int) -> Tensor:
    """For each of `count` tiles, whether any of its rows is hit: hits (N,) bool, tiles (N,)."""
    return torch.bincount(tile[hits], minlength=count) > 0


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
    dtype : torch.dtype
        Of the box head's products when serving.
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
        self.dtype = torch.float32
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
            return self._found(features, proposals, image_shapes), {}
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

    def _found(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        pooled = self.box_roi_pool({name: level.float() for name, level in features.items()}, proposals, image_shapes)
        with lowered(pooled.device, self.dtype):
            seen = self.box_head(pooled)
        logits, codes = self.box_predictor(seen.float())
        parts = self.postprocess_detections(logits, codes, proposals, image_shapes)
        return [dict(zip(("boxes", "scores", "labels"), tile, strict=True)) for tile in zip(*parts, strict=True)]

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
        classes, shape = class_logits.shape[-1], image_shapes[0]
        boxes = self.box_coder.decode(box_regression, proposals).reshape(-1, classes, 4)
        scores = class_logits.float().softmax(dim=-1)
        proposal, label = torch.where(scores[:, 1:] > self.score_thresh)  # column 0 is the background
        label, tile = label + 1, tile_of(proposals)[proposal]
        boxes, scores = clip_boxes_to_image(boxes[proposal, label], shape), scores[proposal, label]
        wide = (boxes[:, 2:] - boxes[:, :2] >= SMALLEST_SIDE).all(dim=1)
        boxes, scores, label, tile = boxes[wide], scores[wide], label[wide], tile[wide]
        keep = suppress(boxes, scores, tile * classes + label, self.suppression)
        keep = keep[is_among_first(scores[keep], tile[keep], self.detections_per_img)]
        first = torch.searchsorted(tile, tile)  # of a tile's rows, which come together
        kept = split_by_tile(tile[keep], len(proposals), keep - first[keep])
        rows = split_by_tile(tile, len(proposals), boxes, scores, label)
        found = [(self._voted(one, *row), row[1][one], row[2][one]) for (one,), row in zip(kept, rows, strict=True)]
        return [boxes for boxes, _, _ in found], [scores for _, scores, _ in found], [label for _, _, label in found]

    def _voted(self, keep: Tensor, boxes: Tensor, scores: Tensor, label: Tensor) -> Tensor:
        """Each kept box, moved to the weighted mean of those it overlaps (Gidaris & Komodakis 2015)."""
        if not self.vote or not len(keep):
            return boxes[keep]
        overlap = box_iou(boxes[keep], boxes) * (label[keep, None] == label)  # (K, N)
        weights = torch.where(overlap > self.vote, overlap * scores, 0.0)
        return weights @ boxes / weights.sum(dim=1, keepdim=True)
