import pytest
import torch
from torch import nn

from lynceus.network import Network, NetworkSpec
from training.fitting.norms import recompute_statistics
from training.fitting.strategies import Strategy, StrategySpec

SPEC = NetworkSpec(widths=(8, 16), blocks=(1, 1), pyramid=16, head_units=(32,), anchors=((8,), (24,)))


def network(**changes: object) -> Network:
    torch.manual_seed(0)
    return Network(SPEC.model_copy(update=changes))


def batches(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [3 + 2 * torch.randn(2, 1, 64, 64, generator=generator) for _ in range(count)]


def test_the_statistics_are_the_mean_over_the_batches():
    net = network()
    first = net.backbone.stem[0]
    tiles = batches(3)
    with torch.no_grad():
        seen = [first[0](batch) for batch in tiles]
    recompute_statistics(net, tiles)
    torch.testing.assert_close(first[1].running_mean, torch.stack([one.mean((0, 2, 3)) for one in seen]).mean(0))
    torch.testing.assert_close(first[1].running_var, torch.stack([one.var((0, 2, 3)) for one in seen]).mean(0))


def test_what_was_there_before_does_not_matter_and_doing_it_twice_changes_nothing():
    one, other = network(head_convolutions=(8,)), network(head_convolutions=(8,))
    for norm in (layer for layer in other.modules() if isinstance(layer, nn.BatchNorm2d)):
        norm.running_mean.fill_(7)
        norm.num_batches_tracked.fill_(9)
    recompute_statistics(one, batches(2))
    recompute_statistics(other, batches(2))
    recompute_statistics(other, batches(2))
    backbones = one.backbone.state_dict(), other.backbone.state_dict()
    assert all(torch.equal(tensor, backbones[1][name]) for name, tensor in backbones[0].items())


@pytest.mark.parametrize("training", [True, False])
def test_weights_modes_and_momenta_stay(training):
    net = network(head_convolutions=(8,)).train(training)
    before = [parameter.clone() for parameter in net.parameters()]
    momenta = [layer.momentum for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    recompute_statistics(net, batches(2))
    assert all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
    assert all(module.training == training for module in net.modules())
    assert momenta == [layer.momentum for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]


def test_the_norms_of_the_box_head_see_proposals():
    net = network(head_convolutions=(8,), proposal_score=0.0)
    norm = next(layer for layer in net.roi_heads.box_head.modules() if isinstance(layer, nn.BatchNorm2d))
    recompute_statistics(net, batches(2))
    assert norm.num_batches_tracked == 2
    assert norm.running_mean.abs().max() > 0


def test_without_proposals_the_box_head_keeps_its_statistics():
    net = network(head_convolutions=(8,), proposal_score=1.0)
    norm = next(layer for layer in net.roi_heads.box_head.modules() if isinstance(layer, nn.BatchNorm2d))
    norm.running_mean.fill_(7)
    recompute_statistics(net, batches(1))
    assert (norm.running_mean == 7).all()


@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
def test_without_batches_or_without_batch_norms_nothing_changes(norm):
    net = network(norm=norm)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    recompute_statistics(net, batches(2) if norm != "batch" else [])
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_norms_that_did_not_learn_keep_what_they_were_trained_with():
    net = network()
    Strategy(StrategySpec(train="partial", layers=1), net)
    stem, stage = net.backbone.stem[0][1], net.backbone.stages[1][0].convolutions[0][1]
    before = stem.running_mean.clone()
    recompute_statistics(net, batches(2))
    assert torch.equal(stem.running_mean, before)
    assert stage.num_batches_tracked == 2
