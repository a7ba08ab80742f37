import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lynceus.network import Network, NetworkSpec
from training.fitting.lora import LowRank
from training.fitting.strategies import Strategy, StrategySpec

SPEC = NetworkSpec(
    widths=(8, 16), blocks=(1, 1), pyramid=16, head_units=(32,), head_convolutions=(8,), anchors=((8,), (24,))
)
STAGES = 3  # the stem and two stages
KINDS = ("all", "partial", "dynamic", "lora")
TARGET = {
    "boxes": torch.tensor([[20.0, 20, 32, 32]]),
    "labels": torch.ones(1, dtype=torch.int64),
    "ignored": torch.zeros(0, 4),
}


def network() -> Network:
    torch.manual_seed(0)
    return Network(SPEC).train()


def learned(strategy: Strategy, steps: int, first: int = 0, total: int = 100) -> set[str]:
    """The names in a network's state that change in some steps."""
    before = {name: tensor.clone() for name, tensor in strategy.network.state_dict().items()}
    optimizer = torch.optim.AdamW(strategy.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(first, first + steps):
        strategy.network.train()
        strategy.at_step(step, total)
        losses = strategy.network.losses(torch.randn(2, 1, 64, 64), [TARGET] * 2)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    return {name for name, tensor in strategy.network.state_dict().items() if not torch.equal(tensor, before[name])}


def in_stage(names: set[str], number: int) -> set[str]:
    prefix = "backbone.stem." if number == 0 else f"backbone.stages.{number - 1}."
    return {name for name in names if name.startswith(prefix)}


def test_everything_learns_by_default():
    strategy = Strategy(StrategySpec(), network())
    assert learned(strategy, 2) == set(strategy.network.state_dict())


@pytest.mark.parametrize("layers", range(STAGES + 2))
def test_partial_freezing_leaves_the_lower_stages_and_their_statistics_alone(layers):
    strategy = Strategy(StrategySpec(train="partial", layers=layers), network())
    changed = learned(strategy, 2)
    everything = set(strategy.network.state_dict())
    for number in range(STAGES):
        expected = in_stage(everything, number) if number >= STAGES - layers else set()
        assert in_stage(changed, number) == expected
    assert {name for name in everything if not name.startswith(("backbone.stem", "backbone.stages"))} <= changed


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 500))
def test_dynamic_freezing_thaws_from_the_top_down_and_never_freezes_again(frozen_until, thawed_by, steps):
    spec = StrategySpec(train="dynamic", frozen_until=frozen_until, thawed_by=thawed_by)
    strategy = Strategy(spec, SHARED)
    learning = [strategy.learning(step, steps) for step in range(steps + 1)]
    assert learning == sorted(learning)
    assert set(learning) <= set(range(STAGES + 1))
    assert learning[-1] == STAGES
    assert all(count == 0 for step, count in enumerate(learning) if step < frozen_until * steps)


SHARED = network()


def test_dynamic_freezing_learns_what_it_says():
    strategy = Strategy(StrategySpec(train="dynamic", frozen_until=0.2, thawed_by=0.6), network())
    for first in (0, 30, 70):
        count = strategy.learning(first, 100)
        changed = learned(strategy, 1, first)
        assert [bool(in_stage(changed, number)) for number in range(STAGES)] == [
            number >= STAGES - count for number in range(STAGES)
        ]


def test_dynamic_freezing_takes_up_where_a_run_was_interrupted():
    spec = StrategySpec(train="dynamic")
    through, resumed = Strategy(spec, network()), Strategy(spec, network())
    for step in range(40):
        through.at_step(step, 100)
    resumed.at_step(39, 100)
    for one, other in zip(through.network.parameters(), resumed.network.parameters(), strict=True):
        assert one.requires_grad == other.requires_grad


def test_low_rank_adaptation_begins_where_the_network_was():
    plain, adapted = network(), network()
    Strategy(StrategySpec(train="lora"), adapted)
    tile = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        before, after = plain.eval()(tile)[0], adapted.eval()(tile)[0]
    assert torch.equal(before.boxes, after.boxes)
    assert torch.equal(before.scores, after.scores)


def test_low_rank_adaptation_learns_few_numbers_and_leaves_the_weights_alone():
    strategy = Strategy(StrategySpec(train="lora", rank=2), network())
    total = sum(parameter.numel() for parameter in network().parameters())
    assert sum(parameter.numel() for parameter in strategy.parameters()) < total / 3
    changed = learned(strategy, 2)
    last = ("rpn.head.cls_logits", "rpn.head.bbox_pred", "roi_heads.box_predictor")
    assert all("lora_" in name or name.startswith(last) for name in changed)
    assert any(name.startswith("backbone.stem") for name in changed)


def test_low_rank_changes_fold_into_plain_weights():
    strategy = Strategy(StrategySpec(train="lora"), network())
    learned(strategy, 3)
    tile = torch.randn(1, 1, 64, 64)
    finished = strategy.finished(copy.deepcopy(strategy.network)).eval()
    assert not any(isinstance(layer, LowRank) for layer in finished.modules())
    Network(SPEC).load_state_dict(finished.state_dict())  # strictly
    with torch.inference_mode():
        expected, found = strategy.network.eval()(tile)[0], finished(tile)[0]
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("train", KINDS)
def test_what_is_finished_is_a_plain_network(train):
    strategy = Strategy(StrategySpec(train=train), network())
    strategy.at_step(0, 10)
    finished = strategy.finished(strategy.network)
    assert finished.state_dict().keys() == Network(SPEC).state_dict().keys()
    assert finished.training == strategy.network.training


@pytest.mark.parametrize("train", KINDS)
def test_a_resnet_can_be_trained_by_every_strategy(train):
    spec = SPEC.model_copy(update={"body": "resnet18", "anchors": ((8,), (16,), (32,), (64,), (96,))})
    with torch.device("meta"):
        resnet = Network(spec)
    strategy = Strategy(StrategySpec(train=train), resnet)
    strategy.at_step(0, 10)
    stem = resnet.backbone.body.conv1.weight.requires_grad
    assert stem == (train == "all")
    assert strategy.parameters()


@pytest.mark.parametrize("wrong", [{"train": "some"}, {"layers": -1}, {"rank": 0}, {"frozen_until": 2.0}])
def test_a_strategy_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError):
        StrategySpec(**wrong)
