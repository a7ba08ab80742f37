"""How good a network is on the validation tiles, while it trains."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from lynceus.matching import match_boxes
from lynceus.network import Network, RawDetections
from lynceus.scoring import IOU, IOU_THRESHOLDS, RECALL_THRESHOLDS, USUAL_CAP
from training.errors import TrainingError
from training.fitting.augment import Target
from training.fitting.crops import Item, collate

FIGURES = ("map_50", "map_75", "map")


def validate(network: Network, items: Iterable[Item], batch: int) -> dict[str, float]:
    """Average precision over tiles, and the loss on them.

    Parameters
    ----------
    network : Network
        Left in the modes it was in.
    items : iterable of (Tensor (C, T, T), target)
        Tiles of one size; read one batch at a time.
    batch : int
        Tiles at a time.

    Returns
    -------
    dict of str to float
        `map_50`, `map_75`, `map`, in the mean over the classes, and `loss`.

    Raises
    ------
    TrainingError
        If there is no source in any tile.

    Notes
    -----
    As in `lynceus.scoring`, an ignored source absorbs at most one detection, which then counts neither right nor
    wrong; so does one on a hidden pixel.
    """
    found: list[dict[str, Tensor]] = []
    sources: list[dict[str, Tensor]] = []
    losses: list[Tensor] = []
    device = next(network.parameters()).device
    with evaluating(network), torch.no_grad():
        for tiles, targets in _batches(items, batch):
            tiles = tiles.to(device)
            losses.append(validation_loss(network, tiles, targets) * len(tiles))
            for raw, target in zip(network(tiles), targets, strict=True):
                found.append(counted(raw, target))
                sources.append({"boxes": target["boxes"], "labels": target["labels"]})
    if not sum(len(tile["boxes"]) for tile in sources):
        raise TrainingError("the validation tiles hold no source: there is nothing to measure a network by")
    return {**average_precision(found, sources), "loss": float(sum(losses)) / len(sources)}


def _batches(items: Iterable[Item], batch: int) -> Iterator[tuple[Tensor, list[Target]]]:
    rest = iter(items)
    while some := list(islice(rest, batch)):
        yield collate(some)


@contextmanager
def evaluating(network: Network) -> Iterator[None]:
    """Evaluation mode inside, the modes that were afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def validation_loss(network: Network, tiles: Tensor, targets: list[Target]) -> Tensor:
    """The four losses together, as training has them but with the norms' running statistics.

    The two region stages ask their own flag whether they train; the layers inside them stay in evaluation mode.
    """
    stages = (network.rpn, network.roi_heads)
    targets = [{name: part.to(tiles.device) for name, part in target.items()} for target in targets]
    for stage in stages:
        stage.training = True
    try:
        return torch.stack(list(network.losses(tiles, targets).values())).sum()
    finally:
        for stage in stages:
            stage.training = False


def counted(raw: RawDetections, target: Target) -> dict[str, Tensor]:
    """The detections of a tile that count, as torchmetrics takes them: none absorbed, none on a hidden pixel."""
    boxes, scores, labels = raw.boxes.float().cpu(), raw.scores.float().cpu(), raw.labels.cpu() + 1
    kept = torch.ones(len(boxes), dtype=torch.bool)
    if len(target["ignored"]):
        known = torch.cat([target["boxes"], target["ignored"]]).numpy()
        ignored = (torch.arange(len(known)) >= len(target["boxes"])).numpy()
        kept &= torch.from_numpy(~match_boxes(boxes.numpy(), scores.numpy(), known, ignored, IOU).absorbed)
    if "hidden" in target:
        x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).long().clamp(0, len(target["hidden"]) - 1).unbind(dim=1)
        kept &= ~target["hidden"][y, x]
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


def average_precision(found: list[dict[str, Tensor]], sources: list[dict[str, Tensor]]) -> dict[str, float]:
    """`map_50`, `map_75` and `map` over tiles; 0 where nothing is found."""
    most = max(max(len(tile["boxes"]) for tile in found), USUAL_CAP)
    metric = MeanAveragePrecision(
        iou_thresholds=IOU_THRESHOLDS,
        rec_thresholds=RECALL_THRESHOLDS,
        max_detection_thresholds=[1, 10, most],
        backend="faster_coco_eval",
        sync_on_compute=False,  # one process looks at all tiles while the others wait
    )
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
    metric.warn_on_many_detections = False
    metric.update(found, sources)
    computed = metric.compute()
    return {name: max(float(computed[name]), 0.0) for name in FIGURES}
