import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lynceus.background import BackgroundSpec, class_loss, cover, hidden_cover, objectness_loss, softness
from lynceus.network import Network, NetworkSpec, SamplingSpec

SIDE = 96
SOFT = BackgroundSpec(floor=0.25)
edges = st.floats(-20, SIDE + 20, allow_nan=False, width=32)
NO_BOXES = torch.zeros(0, 4)


def network(background: BackgroundSpec = BackgroundSpec(), **sampling: object) -> Network:  # noqa: B008
    torch.manual_seed(0)
    sampling = SamplingSpec(background=background, proposal_score=0.0, **sampling)
    spec = NetworkSpec(widths=(8, 16), blocks=(1, 1), pyramid=16, head_units=(32,), anchors=((8,), (24,)))
    return Network(spec.model_copy(update={"sampling": sampling})).train()


def target(boxes: torch.Tensor = NO_BOXES, ignored: torch.Tensor = NO_BOXES, **more: torch.Tensor) -> dict:
    return {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64), "ignored": ignored, **more}


@settings(max_examples=60, deadline=None)
@given(st.lists(edges, min_size=4, max_size=4, unique=True), st.lists(st.integers(0, SIDE), min_size=4, max_size=4))
def test_a_hidden_box_covers_what_an_ignored_box_covers(corners, hole):
    (x_min, x_max), (y_min, y_max) = sorted(corners[:2]), sorted(corners[2:])
    (left, right), (low, high) = sorted(hole[:2]), sorted(hole[2:])
    anchor = torch.tensor([[x_min, y_min, x_max, y_max]])
    hidden = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    hidden[low:high, left:right] = True
    shown = anchor.clamp(0, SIDE).double()
    expected = cover(shown, torch.tensor([[left, low, right, high]], dtype=torch.float64))
    if (shown[0, 2:] - shown[0, :2]).min() > 1e-2:
        torch.testing.assert_close(hidden_cover(anchor, hidden).double(), expected, atol=1e-5, rtol=1e-5)


def test_a_diagonal_trail_covers_the_share_of_its_pixels():
    hidden = torch.eye(SIDE, dtype=torch.bool)
    anchors = torch.tensor([[0.0, 0, SIDE, SIDE], [10, 10, 20, 20], [0, 40, 10, 50]])
    assert hidden_cover(anchors, hidden).tolist() == pytest.approx([1 / SIDE, 0.1, 0.0])


@pytest.mark.parametrize("how", ["box", "mask"])
@pytest.mark.parametrize("background", [BackgroundSpec(), SOFT, BackgroundSpec(recalibrate=0.5)], ids=str)
@pytest.mark.parametrize("boxes", [torch.tensor([[60.0, 60, 72, 72]]), NO_BOXES], ids=["source", "no source"])
def test_what_is_ignored_never_contributes_to_the_loss(how, background, boxes):
    net = network(background, anchors=100_000, ignore_cover=0.5)
    hidden = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    hidden[:40] = True
    ignored = {"ignored": torch.tensor([[0.0, 0, SIDE, 40]])} if how == "box" else {"hidden": hidden}
    tiles, truth = torch.randn(1, 1, SIDE, SIDE), [target(boxes, **ignored)]
    images, features = net.features(tiles)
    levels = list(features.values())
    anchors = net.rpn.anchor_generator(images, levels)
    objectness = torch.zeros(len(anchors[0]), 1, requires_grad=True)
    labels, matched = net.rpn.assign_targets_to_anchors(anchors, truth)
    offsets = net.rpn.box_coder.encode(matched, anchors)
    loss, _ = net.rpn.compute_loss(objectness, torch.zeros(len(anchors[0]), 4), labels, offsets)
    loss.backward()
    inside = cover(anchors[0], torch.tensor([[0.0, 0, SIDE, 40]])) >= 0.5
    source = labels[0] == 1
    assert inside.any()
    assert (objectness.grad[inside & ~source] == 0).all()
    assert (objectness.grad[~inside & (labels[0] == 0)] != 0).any()
    proposals, _, classes, _ = net.roi_heads.select_training_samples([anchors[0].clone()], truth)
    covered = cover(proposals[0], torch.tensor([[0.0, 0, SIDE, 40]])) >= 0.5
    assert len(proposals[0])
    assert not (covered & (classes[0] == 0)).any()


def test_a_source_wins_over_every_ignore_region():
    source = torch.tensor([[20.0, 20, 32, 32]])
    truth = target(source, torch.tensor([[0.0, 0, SIDE, SIDE]]), hidden=torch.ones(SIDE, SIDE, dtype=torch.bool))
    net = network()
    anchors = torch.cat([source + 0.5, torch.tensor([[60.0, 60, 72, 72]])])
    labels, _ = net.rpn.assign_targets_to_anchors([anchors], [truth])
    assert labels[0].tolist() == [1.0, -1.0]
    proposals, _, classes, _ = net.roi_heads.select_training_samples([anchors], [truth])
    assert len(proposals[0])
    assert (classes[0] == 1).all()


@pytest.mark.parametrize("background", [BackgroundSpec(), SOFT], ids=["plain", "soft"])
def test_a_tile_that_is_hidden_whole_teaches_nothing(background):
    net = network(background)
    losses = net.losses(torch.randn(1, 1, SIDE, SIDE), [target(hidden=torch.ones(SIDE, SIDE, dtype=torch.bool))])
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.item() == 0 for loss in losses.values())
    assert all((parameter.grad == 0).all() for parameter in net.parameters())


def test_hiding_nothing_changes_nothing():
    tiles, boxes = torch.randn(2, 1, SIDE, SIDE), torch.tensor([[20.0, 20, 32, 32]])
    outcomes = []
    for more in ({}, {"hidden": torch.zeros(SIDE, SIDE, dtype=torch.bool)}):
        net = network()
        outcomes.append(net.losses(tiles, [target(boxes, **more), target(**more)]))
    for name, loss in outcomes[0].items():
        assert torch.equal(loss, outcomes[1][name])


@pytest.mark.parametrize("stage", ["first", "second"])
def test_weights_of_one_give_the_plain_loss(stage):
    torch.manual_seed(0)
    weights, spec = torch.ones(50), BackgroundSpec()
    if stage == "first":
        logits, labels = torch.randn(50), (torch.arange(50) % 3 == 0).float()
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        found = objectness_loss(logits, labels, weights, spec)
    else:
        logits, labels = torch.randn(50, 3), torch.arange(50) % 3
        expected = torch.nn.functional.cross_entropy(logits, labels)
        found = class_loss(logits, labels, weights, spec)
    torch.testing.assert_close(found, expected)


def test_background_counts_the_more_the_more_it_overlaps_a_source():
    sources = torch.tensor([[20.0, 20, 40, 40]])
    boxes = sources + torch.arange(0, 25)[:, None] * torch.tensor([1.0, 0, 1, 0])
    weights = softness(boxes, sources, SOFT)
    assert (weights.diff() <= 0).all()
    assert weights[0].item() == pytest.approx(1, abs=1e-3)
    assert weights[-1].item() == pytest.approx(SOFT.floor)
    assert (softness(boxes, sources[:0], SOFT) == weights[-1]).all()
    assert (softness(boxes, sources, BackgroundSpec()) == 1).all()


@pytest.mark.parametrize("stage", ["first", "second"])
def test_recalibration_teaches_sure_background_as_source_and_leaves_the_rest(stage):
    spec, weights = BackgroundSpec(recalibrate=0.8), torch.ones(3)
    sure = torch.tensor([-3.0, 0.5, 3.0])  # of being a source: 0.05, 0.62, 0.95
    if stage == "first":
        logits = sure.clone().requires_grad_()
        objectness_loss(logits, torch.zeros(3), weights, spec).backward()
        slope = logits.grad
    else:
        logits = torch.stack([torch.zeros(3), sure], dim=1).requires_grad_()
        class_loss(logits, torch.zeros(3, dtype=torch.int64), weights, spec).backward()
        slope = logits.grad[:, 1]
    assert (slope[:2] > 0).all()  # pushed down, towards background
    assert slope[2] < 0  # pushed up, towards source


@pytest.mark.parametrize("background", [SOFT, BackgroundSpec(recalibrate=0.9)], ids=["soft", "recalibrated"])
def test_a_network_learns_with_weighted_background(background):
    tiles, boxes = torch.randn(2, 1, SIDE, SIDE), torch.tensor([[20.0, 20, 32, 32]])
    weighted, plain = (
        network(spec).losses(tiles, [target(boxes), target()]) for spec in (background, BackgroundSpec())
    )
    assert all(torch.isfinite(loss) for loss in weighted.values())
    if background is SOFT:
        assert weighted["loss_objectness"] < plain["loss_objectness"]
        assert weighted["loss_classifier"] < plain["loss_classifier"]
