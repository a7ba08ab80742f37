import json

import pytest
import torch
import torchvision
from scipy.spatial import cKDTree
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2

from lynceus.background import cover
from lynceus.merge import Suppression
from lynceus.network import RESNET50_V1, RESNET50_V2, Network, NetworkSpec, fold_batch_norms
from lynceus.regions import BoxHeads, Float32BoxCoder, is_among_first, none_smaller, silenced, suppress

SMALL = NetworkSpec(widths=(8, 16, 16, 16), blocks=(1, 1, 1, 1), pyramid=16, head_units=(32,))


def as_torchvision_builds_it() -> NetworkSpec:
    """The reference network with torchvision's own anchors, classes, channels and thresholds."""
    return RESNET50_V2.model_copy(
        update={
            "channels": 3,
            "classes": tuple(f"class {i}" for i in range(90)),
            "anchors": ((32,), (64,), (128,), (256,), (512,)),
            "ratios": (0.5, 1.0, 2.0),
            "candidates": 1000,
            "proposals": 50,
            "proposal_score": 0.0,
            "detections": 30,
            "detection_score": 0.0,
            "proposal_suppression": Suppression(by="iou", threshold=0.7),
            "detection_suppression": Suppression(by="iou", threshold=0.5),
            "vote": 0.0,
        }
    )


def test_the_reference_is_torchvisions_fasterrcnn_resnet50_fpn_v2():
    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn_v2(
        weights=None,
        weights_backbone=None,
        min_size=128,
        max_size=128,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_pre_nms_top_n_test=1000,
        rpn_post_nms_top_n_test=50,
        box_score_thresh=0.0,
        box_detections_per_img=30,
    ).eval()
    ours = Network(as_torchvision_builds_it()).eval()
    ours.load_state_dict(theirs.state_dict())
    tile = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        expected, found = theirs([tile[0]])[0], ours(tile)[0]
    torch.testing.assert_close(found.boxes, expected["boxes"], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.scores, expected["scores"])
    assert torch.equal(found.labels, expected["labels"] - 1)


def test_the_reference_has_43_million_parameters():
    assert sum(p.numel() for p in Network(RESNET50_V2).parameters()) == pytest.approx(43e6, rel=0.02)


@pytest.mark.parametrize(
    "spec",
    [
        SMALL,
        SMALL.model_copy(update={"norm": "group"}),
        SMALL.model_copy(update={"norm": "frozen"}),
        SMALL.model_copy(update={"channels": 3, "classes": ("star", "galaxy", "trail")}),
        SMALL.model_copy(update={"head_convolutions": (16,), "rpn_depth": 2, "ratios": (0.5, 1.0, 2.0)}),
        SMALL.model_copy(update={"head_convolutions": (16,), "pyramid_norm": False, "head_units": (32, 16)}),
        SMALL.model_copy(update={"body": "resnet18", "anchors": ((6,), (12,), (24,), (48,), (96,))}),
    ],
    ids=["plain", "group", "frozen", "three classes", "deep heads", "no norms above", "resnet18"],
)
def test_a_spec_builds_a_network_that_trains_and_finds(spec):
    torch.manual_seed(0)
    network = Network(spec)
    tiles = torch.randn(2, spec.channels, 128, 128)
    boxes = torch.tensor([[20.0, 20, 30, 30], [60, 60, 90, 90]])
    some = {"boxes": boxes, "labels": torch.tensor([1, len(spec.classes)]), "ignored": torch.tensor([[0.0, 0, 9, 9]])}
    none = {"boxes": boxes[:0], "labels": some["labels"][:0], "ignored": boxes[:1]}
    losses = network.losses(tiles, [some, none])
    assert len(losses) == 4
    assert all(torch.isfinite(loss) for loss in losses.values())
    with torch.inference_mode():
        found = network.eval()(tiles)
    assert len(found) == 2
    assert set(found[0].labels.tolist()) <= set(range(len(spec.classes)))


def test_folding_batch_norms_changes_nothing():
    torch.manual_seed(0)
    network = Network(SMALL)
    network.losses(torch.randn(4, 1, 128, 128), [_nothing()] * 4)  # moves the running statistics
    network.eval()
    tile = torch.randn(1, 1, 128, 128)
    with torch.inference_mode():
        before = network.backbone(tile)
        fold_batch_norms(network)
        after = network.backbone(tile)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    for level, features in before.items():
        torch.testing.assert_close(after[level], features, atol=1e-4, rtol=1e-4)


def _nothing() -> dict[str, torch.Tensor]:
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "ignored": torch.zeros(0, 4)}


def test_caps_are_told():
    tile = torch.randn(1, 1, 128, 128)
    with torch.inference_mode():
        capped = Network(SMALL.model_copy(update={"proposals": 5})).eval()(tile)[0]
        free = Network(SMALL.model_copy(update={"proposal_score": 0.999})).eval()(tile)[0]
    assert capped.capped
    assert not free.capped


@pytest.mark.parametrize(
    "caps", [{}, {"proposals": 40, "detections": 9}, {"candidates": 30}], ids=["free", "capped", "few candidates"]
)
@pytest.mark.parametrize("classes", [("source",), ("star", "galaxy", "trail")])
def test_a_batch_finds_what_its_tiles_find_alone(caps, classes):
    torch.manual_seed(0)
    network = Network(SMALL.model_copy(update={"classes": classes, "detection_score": 0.02, **caps})).eval()
    tiles = torch.randn(3, 1, 128, 128) * torch.tensor([1.0, 3.0, 0.5])[:, None, None, None]
    tiles[1, :, :, 64:] = 0  # masked
    with torch.inference_mode():
        together, alone = network(tiles), [network(tile[None])[0] for tile in tiles]
    for ours, theirs in zip(together, alone, strict=True):
        assert len(ours.boxes)
        assert ours.capped == theirs.capped
        columns = [torch.cat([one.boxes, one.scores[:, None], one.labels[:, None]], dim=1) for one in (ours, theirs)]
        distance, nearest = cKDTree(columns[0]).query(columns[1])  # equal scores may come in any order
        assert len(ours.boxes) == len(theirs.boxes) == len(set(nearest))
        assert distance.max() < 1e-3


def test_the_first_of_each_group_are_those_of_the_highest_scores():
    scores, groups = torch.tensor([0.1, 0.9, 0.5, 0.7, 0.2]), torch.tensor([0, 0, 1, 0, 1])
    assert is_among_first(scores, groups, 1).tolist() == [False, True, True, False, False]
    assert is_among_first(scores, groups, 2).tolist() == [False, True, True, True, True]
    assert is_among_first(scores[:0], groups[:0], 1).tolist() == []


@pytest.mark.parametrize("body", ["resnet18", "resnet34", "resnet50", "resnet101"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_resnet_body_is_torchvisions(body, channels):
    spec = RESNET50_V2.model_copy(update={"body": body, "channels": channels, "pyramid": 16, "head_convolutions": ()})
    with torch.device("meta"):
        ours, theirs = Network(spec).backbone, getattr(torchvision.models, body)(weights=None).state_dict()
        levels = ours(torch.empty(1, channels, 128, 128))
    shapes = {name: tensor.shape for name, tensor in ours.body.state_dict().items()}
    wanted = {name: tensor.shape for name, tensor in theirs.items() if not name.startswith("fc.")}
    wanted["conv1.weight"] = torch.Size((64, channels, 7, 7))
    assert shapes == wanted
    assert [level.shape[-1] for level in levels.values()] == [32, 16, 8, 4, 2]


def test_the_stride_may_stand_in_the_first_convolution_of_a_block():
    v1 = RESNET50_V1.model_copy(update={"downsampling": "1x1"})
    with torch.device("meta"):
        second, first = Network(RESNET50_V1).backbone, Network(v1).backbone
        tiles = torch.empty(1, 1, 64, 64)
        assert [level.shape for level in first(tiles).values()] == [level.shape for level in second(tiles).values()]
    for stage in (first.body.layer2, first.body.layer3, first.body.layer4):
        assert (stage[0].conv1.stride, stage[0].conv2.stride) == ((2, 2), (1, 1))
    assert (first.body.layer1[0].conv1.stride, second.body.layer2[0].conv2.stride) == ((1, 1), (2, 2))


def test_a_tile_of_one_channel_is_given_to_all_channels():
    torch.manual_seed(0)
    network = Network(SMALL.model_copy(update={"channels": 3, "detection_score": 0.0})).eval()
    tiles = torch.randn(2, 1, 128, 128)
    with torch.inference_mode():
        for one, three in zip(network(tiles), network(tiles.repeat(1, 3, 1, 1)), strict=True):
            assert len(one.boxes)
            assert torch.equal(one.boxes, three.boxes)
            assert torch.equal(one.scores, three.scores)
    with pytest.raises(ValueError, match="2 channels"):
        network(tiles.repeat(1, 2, 1, 1))


def test_a_manifest_of_before_keeps_its_network():
    spec = json.loads(NetworkSpec().model_dump_json())
    for later in ("downsampling", "pyramid_norm"):
        del spec[later]
    del spec["sampling"]["background"]
    assert NetworkSpec.model_validate(spec) == NetworkSpec()


@pytest.mark.parametrize("wrong", [{"anchors": ((4,),)}, {"classes": ()}, {"body": "vgg"}, {"surprise": 1}])
def test_a_spec_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError):
        NetworkSpec(**wrong)


def test_suppression_by_centre_keeps_what_overlaps_but_stands_apart():
    boxes = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [5, 0, 15, 10], [100, 0, 110, 10]])
    scores, groups = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4)
    near = suppress(boxes, scores, groups, Suppression(by="centre", threshold=0.4))
    assert near.tolist() == [0, 2, 3]  # centres 3 px apart are one, 5 px apart are two
    by_iou = suppress(boxes, scores, groups, Suppression(by="iou", threshold=0.3))
    assert by_iou.tolist() == [0, 3]


def test_suppression_keeps_groups_apart():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    for by in ("iou", "centre"):
        spec = Suppression(by=by, threshold=0.4)
        assert len(suppress(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), spec)) == 2


def test_overlapping_boxes_of_one_class_vote_on_the_place_of_the_best():
    heads = Network(SMALL).roi_heads
    boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [2, 0, 12, 10], [100, 0, 110, 10]])
    scores, label = torch.tensor([0.8, 0.4, 0.4, 0.7]), torch.tensor([1, 1, 2, 1])
    voted = heads._voted(torch.tensor([0, 3]), boxes, scores, label)
    weight = 0.4 * (80 / 120)
    assert voted[0, 0].item() == pytest.approx(2 * weight / (0.8 + weight))
    assert voted[1].tolist() == [100, 0, 110, 10]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_boxes_are_decoded_in_float32(dtype):
    reference = torch.tensor([[1000.3, 1000.3, 1008.7, 1008.7]])
    decoded = Float32BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(torch.zeros(1, 4, dtype=dtype), reference)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, reference)


def test_cover_is_the_share_of_the_anchor():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 4, 4], [50, 50, 60, 60]])
    ignored = torch.tensor([[0.0, 0, 5, 10], [90, 90, 99, 99]])
    assert cover(anchors, ignored).tolist() == [0.5, 1.0, 0.0]
    assert cover(anchors, ignored[:0]).tolist() == [0.0, 0.0, 0.0]


def test_ignore_regions_take_no_loss_and_sources_win():
    network = Network(SMALL).train()
    anchors = torch.tensor([[18.0, 18, 32, 32], [60, 60, 70, 70], [100, 100, 110, 110]])
    target = {"boxes": torch.tensor([[20.0, 20, 30, 30]]), "ignored": torch.tensor([[0.0, 0, 80, 80]])}
    labels, _ = network.rpn.assign_targets_to_anchors([anchors], [target])
    assert labels[0].tolist() == [1.0, -1.0, 0.0]
    empty = {"boxes": torch.zeros(0, 4), "ignored": target["ignored"]}
    labels, _ = network.rpn.assign_targets_to_anchors([anchors], [empty])
    assert labels[0].tolist() == [-1.0, -1.0, 0.0]


def test_ignore_regions_take_no_loss_in_the_second_stage():
    heads = Network(SMALL).roi_heads
    assert isinstance(heads, BoxHeads)
    proposals = [torch.tensor([[20.0, 20, 30, 30], [60, 60, 70, 70], [100, 100, 110, 110]])]
    heads._ignored = [torch.tensor([[0.0, 0, 80, 80]])]
    for boxes, expected in ((proposals[0][:1], [1, -1, 0]), (torch.zeros(0, 4), [-1, -1, 0])):
        _, labels = heads.assign_targets_to_proposals(proposals, [boxes], [torch.ones(len(boxes), dtype=torch.int64)])
        assert labels[0].tolist() == expected


def test_no_proposal_comes_from_where_there_is_nothing_to_see():
    tiles = torch.zeros(1, 1, 64, 64)
    tiles[..., :16, :16] = torch.randn(16, 16)
    for cells, (quiet,) in zip(
        (16, 8, 4), silenced([torch.ones(1, 3, cells, cells) for cells in (16, 8, 4)], tiles), strict=True
    ):
        lit = cells // 4 + 1  # one cell more than the stars reach
        assert (quiet[:, :lit, :lit] == 1).all()
        assert torch.isinf(quiet[:, lit:]).all()
        assert torch.isinf(quiet[:, :, lit:]).all()


def test_where_only_large_objects_are_asked_for_the_proposals_of_small_ones_are_left_out():
    torch.manual_seed(1)
    nothing_is_one = Suppression(by="iou", threshold=1.0)
    network = Network(SMALL.model_copy(update={"proposal_suppression": nothing_is_one})).eval()
    with torch.inference_mode():
        images, _, objectness, offsets = network.dense(torch.randn(1, 1, 128, 128))
        [every], _ = network.rpn.select(images, objectness, offsets)
        with none_smaller(40):
            [large], _ = network.rpn.select(images, objectness, offsets)
        [after], _ = network.rpn.select(images, objectness, offsets)
    wide = (every[:, 2:] - every[:, :2]).amax(dim=1) >= 20
    assert 0 < wide.sum() < len(every)
    assert torch.equal(large, every[wide])
    assert torch.equal(after, every)
