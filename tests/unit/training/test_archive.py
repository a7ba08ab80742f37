import gzip

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from lynceus.frame import read_frame
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec, estimate_sky
from lynceus.truth import read_catalogue, truth_of
from training.errors import TrainingError
from training.scenes.archive import CATALOGUE, FRAME, ArchiveSpec, write_archive
from training.scenes.extraction import COLUMNS
from training.scenes.oddities import ODDITIES
from training.scenes.ranges import SceneSpec

SCENE = SceneSpec(
    sources=(150, 150), empty=0, snr=(10, 300), bright=0, fwhm=(2.5, 3.5), trailed=0, galaxies=(0.3, 0.3),
    galaxy_radius=(1, 4), sky=(200, 500), correlated=0, clean=1,
)  # fmt: skip
EXACT = ArchiveSpec(frames=4, seed=3, size=256, fields=2, dither=12, scene=SCENE, catalogue="truth")
EDGES = ("x_min", "y_min", "x_max", "y_max")


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exact")
    return folder, write_archive(folder, EXACT, workers=1)


def laid(folder, key):
    """Frame, catalogue over it without unlisted candidates, and the exact truth."""
    frame = read_frame((folder / f"{key}{FRAME}").read_bytes())
    catalogue = read_catalogue((folder / f"{key}{CATALOGUE}").read_bytes())
    truth = truth_of(catalogue, frame, estimate_sky(frame, SkySpec()), MeasureSpec(), unlisted=False)
    return frame, truth, Table.read(folder / "truth" / f"{key}.ecsv", format="ascii.ecsv")


def edges(table):
    return np.stack([np.asarray(table[name], float) for name in EDGES], axis=1)


def test_an_exact_catalogue_comes_back_as_the_truth(exact):
    folder, log = exact
    for key in log["key"]:
        frame, found, truth = laid(folder, key)
        listed = truth[~truth["ignored"]]
        assert len(found) == len(listed) > 10
        np.testing.assert_allclose(found.centres[0], listed["x"], atol=1e-3)
        np.testing.assert_allclose(found.centres[1], listed["y"], atol=1e-3)
        np.testing.assert_allclose(found.boxes, edges(listed), atol=0.02)
        assert frame.warnings == ()
        assert frame.facts.exposure_time in (30, 60, 120)


def test_sky_positions_of_a_catalogue_lead_to_its_pixels(exact):
    folder, log = exact
    for key in log["key"]:
        frame = read_frame((folder / f"{key}{FRAME}").read_bytes())
        listed = read_catalogue((folder / f"{key}{CATALOGUE}").read_bytes())
        x, y = frame.wcs.wcs_world2pix(listed.number("ALPHA_J2000"), listed.number("DELTA_J2000"), 1)
        np.testing.assert_allclose(x, listed.number("X_IMAGE"), atol=1e-3)
        np.testing.assert_allclose(y, listed.number("Y_IMAGE"), atol=1e-3)
        assert list(listed.columns) == list(COLUMNS)


@pytest.mark.parametrize("resampled", [0.0, 1.0])
def test_exposures_of_a_field_show_the_same_sky_dithered(exact, tmp_path, resampled):
    folder, log = exact
    if resampled:
        scene = SCENE.model_copy(update={"resampled": 1.0, "turn": 8.0})
        folder, log = tmp_path, write_archive(tmp_path, EXACT.model_copy(update={"scene": scene, "frames": 3}), 1)
    first, other = [key for key, field in zip(log["key"], log["field"], strict=True) if field == 0]
    frame, _, truth = laid(folder, first)
    again, _, moved = laid(folder, other)
    ra, dec = frame.wcs.wcs_pix2world(truth["x"], truth["y"], 0)
    x, y = again.wcs.wcs_world2pix(ra, dec, 0)
    inside = (x > 10) & (x < 245) & (y > 10) & (y < 245) & ~truth["ignored"]
    distance = np.hypot(x[:, None] - np.array(moved["x"]), y[:, None] - np.array(moved["y"])).min(axis=1)
    assert inside.sum() > 10
    assert np.mean(distance[inside] < 0.01) > 0.9  # but for blends, which seeing makes one
    assert np.hypot(np.median(x - truth["x"]), np.median(y - truth["y"])) > 1


def test_shares_of_rows_are_missing_and_flagged(tmp_path, exact):
    spec = EXACT.model_copy(update={"frames": 1, "missing": 0.3, "flagged": 0.3})
    (key,) = write_archive(tmp_path, spec, workers=1)["key"]
    _, found, truth = laid(tmp_path, key)
    _, whole, same = laid(exact[0], key)
    assert (truth == same).all()  # what is there does not depend on what is listed
    assert len(found) == len(whole) - round(0.3 * len(whole))
    assert found.ignored.sum() == round(0.3 * len(found))
    assert {tuple(box) for box in found.boxes} < {tuple(box) for box in whole.boxes}


def test_what_exists_is_kept_and_what_is_missing_is_made_as_before(exact):
    folder, log = exact
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    lost = [folder / f"{log['key'][1]}{FRAME}", folder / "truth" / f"{log['key'][1]}.ecsv"]
    for path in lost:
        path.unlink()
    write_archive(folder, EXACT, workers=1)
    for path, (content, moment) in before.items():
        assert path.read_bytes() == content
        assert path.stat().st_mtime_ns == moment or log["key"][1] in path.name
    with pytest.raises(TrainingError, match="another specification"):
        write_archive(folder, EXACT.model_copy(update={"seed": 4}), workers=1)


def test_every_oddity_is_there(tmp_path):
    spec = ArchiveSpec(frames=2 * len(ODDITIES), seed=2, size=160, fields=3, dither=8, scene=SCENE, oddities=True)
    log = write_archive(tmp_path, spec, workers=1)
    key = {oddity: name for name, oddity in zip(log["key"], log["oddity"], strict=True) if oddity}
    assert tuple(key) == ODDITIES
    assert not (tmp_path / f"{key['no_catalogue']}{CATALOGUE}").exists()
    assert len(read_catalogue((tmp_path / f"{key['empty_catalogue']}{CATALOGUE}").read_bytes())) == 0
    frames = {name: (tmp_path / f"{name}{FRAME}").read_bytes() for name in log["key"]}
    assert frames[key["copy"]] == frames[log["key"][0]]
    assert len(set(frames.values())) == len(frames) - 1
    headers = {name: fits.Header.fromstring(_unpacked(data)) for name, data in frames.items()}
    same = ("DATE-OBS", "OBJECT", "FILTER", "INSTRUME")
    assert [headers[key["repeat"]][card] for card in same] == [headers[log["key"][1]][card] for card in same]
    truths = {oddity: Table.read(tmp_path / "truth" / f"{name}.ecsv") for oddity, name in key.items()}
    assert "comet" in truths["comet"]["kind"]
    assert truths["trail"].meta["trails"]
    _, foreign, _ = laid(tmp_path, key["foreign_catalogue"])
    own = truths["foreign_catalogue"]
    near = np.hypot(*(np.subtract.outer(c, own[a]) for c, a in zip(foreign.centres, "xy", strict=True))).min(axis=1)
    assert np.mean(near < 1) < 0.3
    assert read_frame(frames[key["saturated"]]).saturated.sum() > 20
    labels = dict(line.split() for line in (tmp_path / "labels.txt").read_text().splitlines())
    assert labels[f"{key['saturated']}{FRAME}"] == "OK,ESO"
    assert set(labels) <= {f"{name}{FRAME}" for name in log["key"]}


def test_an_extraction_has_real_faults(tmp_path):
    wide = SCENE.model_copy(update={"snr": (3, 300), "sources": (300, 300)})
    spec = EXACT.model_copy(update={"frames": 2, "catalogue": "extraction", "scene": wide})
    log = write_archive(tmp_path, spec, workers=1)
    real, lost, flags = [], [], []
    for key in log["key"]:
        _, found, truth = laid(tmp_path, key)
        distance = np.hypot(*(np.subtract.outer(c, truth[a]) for c, a in zip(found.centres, "xy", strict=True)))
        real.extend(distance.min(axis=1) < 3)
        lost.extend(distance.min(axis=0)[~truth["ignored"]] > 3)
        flags.extend(read_catalogue((tmp_path / f"{key}{CATALOGUE}").read_bytes()).number("FLAGS"))
    assert np.mean(real) > 0.75  # most rows are of something
    assert 0.02 < np.mean(lost) < 0.7  # some sources have no row
    assert 0 < np.mean(np.array(flags) > 0) < 0.6


def _unpacked(data):
    return gzip.decompress(data)[: 2880 * 2]
