"""A training run in the small: phases, looks at the validation tiles, logs, and what can go wrong."""

import logging
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lynceus.detections import Detections
from lynceus.network import Network, RawDetections
from lynceus.scoring import evaluate
from lynceus.truth import Truth
from tests.unit.training.run_kit import NETWORK, small_recipe, write_scenes
from training.errors import TrainingError
from training.fitting import speed
from training.fitting.augment import Target
from training.fitting.checkpoints import best_weights, read_best
from training.fitting.feed import open_feed
from training.fitting.loggers import CsvLog, build_loggers, read_log
from training.fitting.speed import SpeedGuard
from training.fitting.start import StartSpec
from training.fitting.train import pace, processes, train
from training.fitting.validation import average_precision, counted, validate

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning and its loggers have much to say


def weights(path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)


def test_phases_follow_each_other_and_a_finished_one_is_not_trained_again(tmp_path):
    run = write_scenes(tmp_path)
    recipe = small_recipe({"steps": 3}, {"steps": 2, "seed": 2, "learning_rate": 1e-9, "ema": 0.0})
    network = train(recipe, run)
    assert not network.training
    first, second = (run / f"phase{number}" / "weights.pt" for number in (1, 2))
    written, before = first.stat().st_mtime_ns, weights(second)
    for name, weight in weights(first).items():  # at no rate to speak of, the second ends where it began
        if "running" not in name and weight.dtype == torch.float32:
            torch.testing.assert_close(before[name], weight, rtol=0, atol=1e-5)
    second.unlink()
    again = train(recipe, run).state_dict()
    assert first.stat().st_mtime_ns == written
    assert all(torch.equal(before[name], again[name]) for name in before)


def test_a_validated_phase_ends_with_the_weights_of_its_best_look(tmp_path):
    looks: dict[int, dict[str, float]] = {}
    run = write_scenes(tmp_path)
    recipe = small_recipe({"steps": 6, "validate_every": 2}, {"steps": 2, "validate_every": 2, "seed": 2})
    train(recipe, run, on_validation=lambda step, figures: looks.update({step: figures}))
    assert list(looks) == [2, 4, 6, 8]  # steps are those of the run
    assert all(set(figures) == {"map_50", "map_75", "map", "loss"} for figures in looks.values())
    phase = run / "phase1"
    best = read_best(phase)
    assert best["map_50"]["value"] == max(looks[step]["map_50"] for step in (2, 4, 6))
    assert best["loss"]["value"] == min(looks[step]["loss"] for step in (2, 4, 6))
    kept, chosen = weights(phase / "weights.pt"), weights(best_weights(phase, "map_50"))
    assert all(torch.equal(kept[name], chosen[name]) for name in kept)
    log = read_log(phase)
    logged = log[log["name"] == "validation/map_50"]
    assert logged["step"].tolist() == [2, 4, 6]
    assert logged["value"].tolist() == [looks[step]["map_50"] for step in (2, 4, 6)]
    assert {"loss", "loss_objectness", "learning_rate"} <= set(log["name"])


def test_a_start_from_weights_that_are_not_there_is_told(tmp_path):
    recipe = small_recipe(start=StartSpec(source="file", path=str(tmp_path / "nowhere.pth")))
    with pytest.raises(TrainingError, match=r"nowhere\.pth"):
        train(recipe, write_scenes(tmp_path))


def test_frames_that_are_not_there_are_told(tmp_path):
    with pytest.raises(TrainingError, match="simulate"):
        train(small_recipe(), tmp_path)


def test_a_loss_that_is_no_number_ends_the_run_with_step_and_rate(tmp_path):
    with pytest.raises(TrainingError, match=r"step \d+, with a learning rate of \d.*e\+"):
        train(small_recipe({"learning_rate": 1e30, "warm_up": 0, "steps": 9}), write_scenes(tmp_path))


@pytest.mark.parametrize("precision", ["bf16-mixed"])
def test_mixed_precision_trains(tmp_path, precision):
    network = train(small_recipe({"precision": precision, "steps": 2}), write_scenes(tmp_path))
    assert all(weight.dtype != torch.bfloat16 for weight in network.state_dict().values())


def test_parts_of_a_step_are_averaged_once_a_step(tmp_path):
    run = write_scenes(tmp_path)
    train(small_recipe({"steps": 3, "accumulate": 2, "save_every": 1}), run)
    saved = torch.load(run / "phase1" / "last.ckpt", weights_only=False)
    assert saved["global_step"] == 3
    assert saved["state_dict"]["averaged.n_averaged"] == 3


def test_the_rate_rises_then_falls_to_a_hundredth():
    how = small_recipe({"warm_up": 10, "steps": 110}).training[0]
    rates = [pace(step, how) for step in range(111)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[10] == max(rates) == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.505)
    assert rates[110] == pytest.approx(0.01)
    assert all(np.diff(rates[:11]) > 0)
    assert all(np.diff(rates[10:]) < 0)
    assert pace(0, small_recipe({"warm_up": 0}).training[0]) == 1.0


def random_tile(seed: int) -> tuple[RawDetections, Target]:
    """Sources on a grid, a third of them ignored, and detections near most of them."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(6)), axis=-1).reshape(-1, 2) * 20.0 + 5
    sources = np.concatenate([grid, grid + 10], axis=1)
    found = (sources + rng.normal(0, 1.2, sources.shape))[rng.random(36) < 0.8]
    found = np.concatenate([found, rng.uniform(0, 100, (8, 1)) + np.array([0, 0, 9, 9])])
    order = np.argsort(-(scores := rng.random(len(found))))
    ignored = rng.random(36) < 0.3
    raw = RawDetections(
        torch.tensor(found[order]).float(),
        torch.tensor(scores[order]).float(),
        torch.zeros(len(found), dtype=torch.int64),
        False,
    )
    boxes = torch.tensor(sources).float()
    known = torch.from_numpy(ignored)
    return raw, {"boxes": boxes[~known], "ignored": boxes[known], "labels": torch.ones(int((~known).sum())).long()}


@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_those_of_the_evaluation(seed):
    raw, target = random_tile(seed)
    ours = average_precision([counted(raw, target)], [{name: target[name] for name in ("boxes", "labels")}])
    boxes = torch.cat([target["boxes"], target["ignored"]]).numpy()
    ignored = np.arange(len(boxes)) >= len(target["boxes"])
    truth = Truth(boxes, ignored, np.full(len(boxes), np.nan), "none", (), len(boxes))
    theirs = evaluate(Detections(raw.boxes.numpy(), raw.scores.numpy(), raw.labels.numpy()), truth, min_score=0.0)
    for name, value in ours.items():
        assert value == pytest.approx(getattr(theirs, name), abs=1e-4)
    assert 0.2 < ours["map_50"] < 1


def test_a_detection_on_a_hidden_pixel_does_not_count():
    raw, target = random_tile(1)
    hidden = torch.zeros(128, 128, dtype=torch.bool)
    hidden[:64] = True
    kept = counted(raw, {**target, "hidden": hidden})["boxes"]
    assert len(kept)
    assert ((kept[:, 1] + kept[:, 3]) / 2 >= 64).all()


def test_a_look_leaves_the_network_as_it_was(tmp_path):
    recipe = small_recipe()
    network = Network(NETWORK)
    network.backbone.eval()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    figures = validate(network, open_feed(recipe, write_scenes(tmp_path)).validation(recipe.training[0]), 3)
    assert math.isfinite(figures["loss"])
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[name], weight) for name, weight in network.state_dict().items())


def test_tiles_without_a_source_measure_nothing():
    empty = {"boxes": torch.zeros(0, 4), "ignored": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    with pytest.raises(TrainingError, match="no source"):
        validate(Network(NETWORK), [(torch.zeros(1, 64, 64), empty)], 1)


@pytest.mark.parametrize(("wait", "told"), [(0.09, True), (0.002, False)])
def test_the_guard_tells_when_the_network_waits_for_its_tiles(monkeypatch, caplog, wait, told):
    clock = iter(np.cumsum([wait, 0.03] * 80))
    monkeypatch.setattr(speed, "perf_counter", lambda: float(next(clock)))
    guard = SpeedGuard(workers=3)
    with caplog.at_level(logging.WARNING):
        for _ in range(80):
            guard.on_train_batch_start()
            guard.on_train_batch_end()
    assert guard.share == pytest.approx(wait / (wait + 0.03), abs=0.02)
    assert ("90 of the 120 ms" in caplog.text and "now 3" in caplog.text) == told
    assert len(caplog.records) == int(told)


def test_the_log_goes_on_where_the_run_does(tmp_path):
    path = tmp_path / "metrics.csv"
    log = CsvLog(path, 0)
    for step in (1, 2, 3):
        log.log_metrics({"loss": 1 / step, "rate": 0.1}, step)
    with path.open("a") as file:
        file.write("4,lo")  # a crash
    CsvLog(path, 2).log_metrics({"loss": 0.25}, 3)
    table = read_log(tmp_path)
    assert table["step"].tolist() == [1, 1, 2, 2, 3]
    assert table["value"].tolist() == [1.0, 0.1, 0.5, 0.1, 0.25]


@pytest.mark.parametrize(("name", "file"), [("tensorboard", "tensorboard/*tfevents*"), ("mlflow", "mlflow.db")])
def test_other_loggers_write_into_the_folder(tmp_path, name, file):
    pytest.importorskip(name)
    _, logger = build_loggers((name,), tmp_path, "small", 0)
    logger.log_metrics({"loss": 0.5}, 3)
    logger.finalize("success")
    assert list(tmp_path.glob(file))


def test_a_logger_that_is_not_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("training.fitting.loggers.TensorBoardLogger", _not_installed)
    with pytest.raises(TrainingError, match=r"lynceus\[loggers\]"):
        build_loggers(("tensorboard",), tmp_path, "small", 0)


def _not_installed(*_: object, **__: object) -> None:
    raise ModuleNotFoundError("no such thing")


def test_processes_are_those_that_torchrun_started(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    recipe = small_recipe()
    assert processes(recipe) == {"devices": 1}
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert processes(recipe) == {"devices": 4, "num_nodes": 2, "strategy": "ddp"}
