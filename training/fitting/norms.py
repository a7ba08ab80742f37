"""Statistics of batch norms, computed afresh for weights that were averaged."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lynceus.network import Network


def recompute_statistics(network: Network, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of every batch norm by the mean over some batches.

    The running statistics of an averaged network were met by other weights than its own. A norm that did not learn
    keeps its statistics, for it was trained with them.

    Parameters
    ----------
    network : Network
        Changed in place; its mode stays.
    batches : iterable of Tensor, shape (B, C, T, T)
        Normalised tiles. Without one, nothing changes.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d) and _learns(layer)]
    if not norms:
        return
    training, before = network.training, [(norm.momentum, copy.deepcopy(norm.state_dict())) for norm in norms]
    network.eval()
    with torch.no_grad():
        for number, tiles in enumerate(batches):
            if number == 0:
                _start_afresh(norms)
            _look(network, tiles.to(next(network.parameters()).device))
    for norm, (momentum, state) in zip(norms, before, strict=True):
        norm.momentum = momentum
        if not norm.num_batches_tracked:  # it saw nothing, a box head without proposals for one
            norm.load_state_dict(state)
    network.train(training)


def _learns(norm: nn.BatchNorm2d) -> bool:
    return norm.weight is not None and norm.weight.requires_grad


def _start_afresh(norms: list[nn.BatchNorm2d]) -> None:
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()


def _look(network: Network, tiles: Tensor) -> None:
    """Pass tiles through every layer that has norms; the box head sees as many proposals as in a training step."""
    images, features = network.features(tiles)
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in network.roi_heads.box_head.modules()):
        return
    proposals, _ = network.rpn.propose(images, features)
    best = [boxes[: network.spec.sampling.proposals] for boxes in proposals]
    if any(len(boxes) for boxes in best):
        network.roi_heads.box_head(network.roi_heads.box_roi_pool(features, best, images.image_sizes))
