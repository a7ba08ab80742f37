"""`/evaluate` of the shipped version against figures computed apart from it, from the answer of `/detect`."""

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.coco import coco, dense_iou, greedy_with_ignored
from tests.data import test_data as data_file
from training.scenes.simulate import SceneSpec, draw_scene

SCALE, LEAST = 2.5, 4.0  # the box rule: side over FWHM, least side in pixels
SIGMA = 2 * np.sqrt(2 * np.log(2))


def post(address: str, path: str, **files: bytes) -> Any:
    answer = httpx.post(f"{address}{path}", files=files, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


def detected(address: str, frame: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Every box and score there is, by falling score."""
    rows = post(address, "/detect?min_score=0&measure=false", frame=frame)["detections"]
    return np.array([row["box"] for row in rows]).reshape(-1, 4), np.array([row["score"] for row in rows])


def check(figures: Any, boxes: np.ndarray, scores: np.ndarray, sources: np.ndarray, ignored: np.ndarray) -> None:
    """Compare with COCO's definition, written out slowly; ignored sources take one detection each."""
    caps = list(figures["caps"].values())
    taken = greedy_with_ignored(*dense_iou(boxes, sources), scores, ignored)
    absorbed = np.array([source >= 0 and ignored[source] for source in taken])
    expected = coco(boxes[~absorbed], scores[~absorbed], sources[~ignored], caps)
    assert figures["map_50"] == pytest.approx(expected.precisions[0], abs=1e-4)
    assert figures["map"] == pytest.approx(expected.precisions.mean(), abs=1e-4)
    shown = scores >= figures["min_score"]
    taken = greedy_with_ignored(*dense_iou(boxes[shown], sources), scores[shown], ignored)
    right = sum(source >= 0 and not ignored[source] for source in taken)
    counts = figures["counts"]
    assert (counts["matched"], counts["missed"]) == (right, (~ignored).sum() - right)
    assert counts["extra"] == (taken == -1).sum()


def moments_boxes(catalogue: Path, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of the rule from second moments, and which rows are flagged; columns as the header counts them."""
    names = {line.split()[2]: int(line.split()[1]) - 1 for line in catalogue.read_text().splitlines() if line[0] == "#"}
    rows = np.loadtxt(catalogue)
    x, y, xx, yy = (rows[:, names[name]] for name in ("X_IMAGE", "Y_IMAGE", "X2_IMAGE", "Y2_IMAGE"))
    width, height = (np.maximum(SCALE * SIGMA * np.sqrt(variance), LEAST) for variance in (xx, yy))
    boxes = np.stack([x - 0.5 - width / 2, y - 0.5 - height / 2, x - 0.5 + width / 2, y - 0.5 + height / 2], axis=1)
    limits = np.array([shape[1], shape[0], shape[1], shape[0]])
    return np.clip(boxes, 0, limits), rows[:, names["FLAGS"]].astype(int) & 248 != 0


def test_the_corner_of_eso_with_its_official_catalogue(address: str) -> None:
    folder = data_file("catalogues/eso_ntt_emmi")
    frame, catalogue = (folder / "image.fits").read_bytes(), folder / "image.cat"
    answer = post(address, "/evaluate?unlisted=false", frame=frame, catalogue=catalogue.read_bytes())
    sources, ignored = moments_boxes(catalogue, tuple(answer["frame"]["shape"]))
    assert (len(sources), answer["evaluation"]["sources"]) == (65, (~ignored).sum())
    check(answer["evaluation"], *detected(address, frame), sources, ignored)
    assert answer["evaluation"]["recall"] > 0.6


def test_a_simulated_frame_with_its_truth(address: str) -> None:
    spec = SceneSpec(size=512, sources=(120, 120), empty=0, bright=0, fwhm=(2.5, 3.5), snr=(4, 300))
    hdu, truth = draw_scene(np.random.default_rng([91, 1]), spec)
    frame, catalogue = io.BytesIO(), io.StringIO()
    hdu.writeto(frame)
    truth.write(catalogue, format="ascii.ecsv")
    answer = post(address, "/evaluate?unlisted=false", frame=frame.getvalue(), catalogue=catalogue.getvalue().encode())
    sources = np.stack([np.asarray(truth[name], float) for name in ("x_min", "y_min", "x_max", "y_max")], axis=1)
    on_frame = (truth["x"] > -0.5) & (truth["x"] < 511.5) & (truth["y"] > -0.5) & (truth["y"] < 511.5)
    ignored = np.asarray(truth["ignored"], bool)[on_frame]
    check(answer["evaluation"], *detected(address, frame.getvalue()), sources[on_frame], ignored)
    assert answer["evaluation"]["f1"] > 0.7
