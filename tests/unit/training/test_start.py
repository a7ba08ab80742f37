import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.ops import FrozenBatchNorm2d

from lynceus.bundle import WEIGHTS, read_manifest
from lynceus.errors import BundleError
from lynceus.merge import Suppression
from lynceus.network import RESNET50_V1, RESNET50_V2, Network, NetworkSpec
from model_store import default_bundle
from tests.data import test_data
from training.errors import TrainingError
from training.fitting.foreign import named_as_ours
from training.fitting.start import StartSpec, adapted, start

SMALL = NetworkSpec(widths=(8, 16, 16, 16), blocks=(1, 1, 1, 1), pyramid=16, head_units=(32,))
FIRST = "backbone.stem.0.0.weight"
SHIPPED = StartSpec(source="bundle", path=str(default_bundle()))


def as_torchvision_builds_it() -> NetworkSpec:
    """The first reference with torchvision's own anchors, classes, channels and thresholds."""
    return RESNET50_V1.model_copy(
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


def test_the_first_reference_is_torchvisions_fasterrcnn_resnet50_fpn(tmp_path):
    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn(
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
    torch.save(theirs.state_dict(), tmp_path / "v1.pth")
    ours = Network(as_torchvision_builds_it()).eval()
    said = start(ours, StartSpec(source="file", path=str(tmp_path / "v1.pth")))
    assert "nothing is left random" in said
    tile = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        expected, found = theirs([tile[0]])[0], ours(tile)[0]
        mine, others = ours.backbone(tile), theirs.backbone(tile)
    for level, features in others.items():
        assert torch.equal(mine[level], features)
    torch.testing.assert_close(found.boxes, expected["boxes"], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.scores, expected["scores"])
    assert torch.equal(found.labels, expected["labels"] - 1)


def test_weights_from_before_torchvisions_frozen_norms_changed_answer_as_they_did():
    torch.manual_seed(0)
    old, new = (resnet18(norm_layer=FrozenBatchNorm2d).eval() for _ in range(2))
    overwrite_eps(old, 0.0)
    for name, tensor in old.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(1e-5, 1e-4)  # so small that what is added to it shows
    state = {f"backbone.body.{name}": tensor for name, tensor in old.state_dict().items()}
    state["rpn.head.conv.weight"] = torch.zeros(1)  # the name of that time
    renamed = named_as_ours(state)
    assert "rpn.head.conv.0.0.weight" in renamed
    prefix = "backbone.body."
    fitting = {name.removeprefix(prefix): tensor for name, tensor in renamed.items() if name.startswith(prefix)}
    new.load_state_dict(fitting)
    tile = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(new(tile), old(tile), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_was_saved_starts_the_same_network(tmp_path, suffix, prefix):
    saved, path = Network(SMALL), tmp_path / f"weights{suffix}"
    state = {prefix + name: tensor for name, tensor in saved.state_dict().items()}
    if suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    elif suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    network = Network(SMALL)
    assert "nothing is left random" in start(network, StartSpec(source="file", path=str(path)))
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_a_random_start_changes_nothing():
    network = Network(SMALL)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert "random" in start(network, StartSpec())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("given", [1, 3, 4])
@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_replicated_filters_answer_a_replicated_tile_as_before(given, wanted):
    filters, tile = torch.randn(5, given, 3, 3), torch.randn(1, 1, 16, 16)
    before = torch.nn.functional.conv2d(tile.expand(-1, given, -1, -1), filters)
    for how, factor in (("replicate", 1.0), ("mean", wanted / given)):
        new = adapted(filters, wanted, how)
        after = torch.nn.functional.conv2d(tile.expand(-1, wanted, -1, -1), new)
        torch.testing.assert_close(after, before * factor, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("how", ["mean", "replicate", "random"])
def test_the_first_convolution_takes_other_channels(tmp_path, how):
    saved, path = Network(SMALL.model_copy(update={"channels": 3})), tmp_path / "rgb.pt"
    torch.save(saved.state_dict(), path)
    network = Network(SMALL)
    before = network.state_dict()[FIRST].clone()
    assert how in start(network, StartSpec(source="file", path=str(path), channels=how))
    assert torch.equal(network.state_dict()[FIRST], before) == (how == "random")
    changed = [
        name for name, tensor in network.state_dict().items() if not torch.equal(tensor, saved.state_dict()[name])
    ]
    assert changed == [FIRST]


def test_a_bundle_goes_on_as_it_was():
    network = Network(read_manifest(default_bundle()).network)
    assert "nothing is left random" in start(network, SHIPPED)
    weights = load_file(default_bundle() / WEIGHTS)
    assert weights.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, weights[name].to(tensor.dtype)) for name, tensor in network.state_dict().items())


def test_classes_of_the_same_name_are_taken_over_and_others_stay_random():
    shipped, network = Network(NetworkSpec()), Network(NetworkSpec(classes=("star", "source")))
    random = network.roi_heads.box_predictor.cls_score.weight.clone()
    start(shipped, SHIPPED)
    assert "no star" in start(network, SHIPPED)
    rows, theirs = network.roi_heads.box_predictor, shipped.roi_heads.box_predictor
    assert torch.equal(rows.cls_score.weight[[0, 2]], theirs.cls_score.weight)
    assert torch.equal(rows.cls_score.weight[1], random[1])
    assert torch.equal(rows.bbox_pred.weight[8:], theirs.bbox_pred.weight[4:])


def test_heads_of_other_classes_stay_random():
    network = Network(NetworkSpec(classes=("galaxy",)))
    random = network.roi_heads.box_predictor.cls_score.weight.clone()
    assert "left random: classes and boxes" in start(network, SHIPPED)
    assert torch.equal(network.roi_heads.box_predictor.cls_score.weight, random)


def test_an_imagenet_body_of_8_bits_starts_a_resnet():
    path = test_data("weights/resnet50_v1_imagenet_pruned_int8.npz")
    network = Network(RESNET50_V1.model_copy(update={"downsampling": "1x1", "channels": 3}))
    said = start(network, StartSpec(source="file", path=str(path)))
    assert "pyramid" in said
    with np.load(path) as arrays:
        for name in ("conv1", "layer3.2.conv2", "layer2.0.downsample.0"):
            scale = 2.0 ** -float(arrays[f"{name}.weight.frac_bits"])
            found = network.backbone.body.get_parameter(f"{name}.weight").detach().numpy()
            np.testing.assert_array_equal(found, arrays[f"{name}.weight"] * np.float32(scale))
    tile, norm = torch.rand(1, 3, 64, 64), network.eval().backbone.body.bn1
    with torch.inference_mode():
        torch.testing.assert_close(
            norm(tile.repeat(1, 22, 1, 1)[:, :64]), tile.repeat(1, 22, 1, 1)[:, :64] + norm.bias[:, None, None]
        )
    with pytest.raises(TrainingError, match="downsampling"):
        start(Network(RESNET50_V1), StartSpec(source="file", path=str(path)))


def test_weights_of_another_body_are_refused(tmp_path):
    torch.save(Network(SMALL.model_copy(update={"widths": (8, 16, 16, 32)})).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(TrainingError, match="not of this network's body"):
        start(Network(SMALL), StartSpec(source="file", path=str(tmp_path / "wide.pt")))


@pytest.mark.parametrize("name", ["none.pt", "text.pt", "text.npz", "text.safetensors", "code.pt", "weights.onnx"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, name):
    if name.startswith("text"):
        (tmp_path / name).write_text("not weights")
    elif name.startswith("code"):
        torch.save({"weights": test_a_random_start_changes_nothing}, tmp_path / name)
    with pytest.raises(TrainingError, match=name):
        start(Network(SMALL), StartSpec(source="file", path=str(tmp_path / name)))


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError):
        start(Network(SMALL), StartSpec(source="bundle", path=str(tmp_path)))


@pytest.mark.parametrize("source", ["coco", "imagenet"])
def test_weights_out_of_reach_say_how_to_bring_them(monkeypatch, tmp_path, source):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", _no_network)
    with torch.device("meta"):
        network = Network(RESNET50_V2)
    with pytest.raises(TrainingError, match=r'source = "file", path = ".*pth"'):
        start(network, StartSpec(source=source))


def test_what_torchvision_fetches_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    body = resnet18()
    torch.save(body.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    spec = RESNET50_V1.model_copy(update={"body": "resnet18", "pyramid": 16, "channels": 3})
    network = Network(spec)
    said = start(network, StartSpec(source="imagenet"))
    assert "ImageNet weights of resnet18" in said
    assert torch.equal(network.backbone.body.conv1.weight, body.conv1.weight)


def _no_network(*_: object, **__: object) -> None:
    raise OSError("no route to host")


@pytest.mark.parametrize("source", ["coco", "imagenet"])
def test_there_are_no_published_weights_of_a_compact_body(source):
    with pytest.raises(TrainingError, match="compact"):
        start(Network(SMALL), StartSpec(source=source))


@pytest.mark.parametrize("wrong", [{"source": "file"}, {"path": "x.pt"}, {"source": "hub"}])
def test_a_start_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError):
        StartSpec(**wrong)
