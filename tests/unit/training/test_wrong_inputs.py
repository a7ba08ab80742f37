"""Catalogues and headers as they come: each gives the right boxes, or says clearly why not."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from lynceus.detections import box_about
from lynceus.errors import CatalogueError
from lynceus.measure import MeasureSpec
from lynceus.sky import SkySpec
from lynceus.truth import Truth
from tests.unit.training.tile_kit import FWHM, star_field
from training.curation.curate import curate
from training.tiling.exposures import TruthSpec, exposure_of

MEASURE = MeasureSpec()
SHAPE = (200, 220)
SCALE = 0.5  # arcsec a pixel
SIDE = MEASURE.box_scale * FWHM
X, Y = np.array([(x + 0.25, y + 0.5) for x in range(30, 200, 45) for y in range(30, 180, 45)]).T
RIGHT = box_about(X, Y, np.full(len(X), SIDE), np.full(len(X), SIDE))
AS_LISTED = TruthSpec(sizes="catalogue", unlisted=False)
MEASURED = TruthSpec(unlisted=False)


def matrix(angle: float) -> np.ndarray:
    """Degrees a pixel, north up and east left, then turned."""
    turn = np.radians(angle)
    return SCALE / 3600 * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])


def header(kind: str) -> fits.Header:
    """A header with the WCS written in one of the ways that there are, or without."""
    head = fits.Header()
    if kind == "none":
        return head
    head.update(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 30.0, "CRPIX1": 110.0, "CRPIX2": 100.0}
    )
    if kind == "CDELT":
        head.update({"CDELT1": -SCALE / 3600, "CDELT2": SCALE / 3600})
        return head
    for (row, column), value in np.ndenumerate(matrix(37.0 if kind == "rotated" else 0.0)):
        head[f"CD{row + 1}_{column + 1}"] = value
    return head


def written(folder: Path, columns: dict[str, object], wcs: str = "CD", suffix: str = ".cat") -> tuple[Path, Path]:
    """A frame and an ASCII_HEAD catalogue of these columns; one value stands for all rows."""
    fits.PrimaryHDU(star_field(np.stack([X, Y], axis=1), SHAPE, 5), header(wcs)).writeto(folder / "one.fits")
    rows = np.stack([np.broadcast_to(values, len(X)) for values in columns.values()], axis=1)
    head = "".join(f"# {number:3d} {name}\n" for number, name in enumerate(columns, start=1))
    body = "".join(" ".join(f"{value:.8f}" for value in row) + "\n" for row in rows)
    (folder / f"one{suffix}").write_text(head + body)
    return folder / "one.fits", folder / f"one{suffix}"


def truth_of(files: tuple[Path, Path], spec: TruthSpec = AS_LISTED) -> Truth:
    return exposure_of(*files, SkySpec(), MEASURE, spec).truth


def assert_right(truth: Truth, tolerance: float = 0.02) -> None:
    assert not truth.ignored.any()
    np.testing.assert_allclose(truth.boxes, RIGHT, atol=tolerance)


def test_columns_in_another_order(tmp_path):
    assert_right(truth_of(written(tmp_path, {"FWHM_IMAGE": FWHM, "FLAGS": 0, "Y_IMAGE": Y + 1, "X_IMAGE": X + 1})))


def test_positions_from_one_and_from_zero(tmp_path):
    files = written(tmp_path, {"X_IMAGE": X + 1, "Y_IMAGE": Y + 1, "FWHM_IMAGE": FWHM})
    assert_right(truth_of(files))
    lines = "x,y,fwhm\n" + "".join(f"{x},{y},{FWHM}\n" for x, y in zip(X, Y, strict=True))
    (tmp_path / "zero.csv").write_text(lines)
    assert_right(truth_of((files[0], tmp_path / "zero.csv")))


@pytest.mark.parametrize("wcs", ["CD", "CDELT", "rotated"])
def test_sky_positions_and_sizes_under_each_kind_of_wcs(tmp_path, wcs):
    ra, dec = WCS(header(wcs)).all_pix2world(X, Y, 0)
    columns = {"ALPHA_J2000": ra, "DELTA_J2000": dec, "FWHM_WORLD": FWHM * SCALE / 3600}
    assert_right(truth_of(written(tmp_path, columns, wcs)), tolerance=0.05)


def test_sizes_on_the_sky_without_a_wcs_are_no_sizes(tmp_path):
    files = written(tmp_path, {"X_IMAGE": X + 1, "Y_IMAGE": Y + 1, "FWHM_WORLD": FWHM * SCALE / 3600}, "none")
    truth = truth_of(files)
    assert truth.ignored.all()
    assert any("size" in warning for warning in truth.warnings)


def test_sky_positions_without_a_wcs_are_refused(tmp_path):
    files = written(tmp_path, {"ALPHA_J2000": 150.0, "DELTA_J2000": 30.0, "FWHM_IMAGE": FWHM}, "none")
    with pytest.raises(CatalogueError, match="WCS"):
        truth_of(files)


def test_an_empty_catalogue_lists_nothing(tmp_path):
    frame, _ = written(tmp_path, {"X_IMAGE": X + 1, "Y_IMAGE": Y + 1, "FWHM_IMAGE": FWHM})
    (tmp_path / "empty.cat").write_text("#   1 X_IMAGE\n#   2 Y_IMAGE\n#   3 FWHM_IMAGE\n")
    assert len(truth_of((frame, tmp_path / "empty.cat"))) == 0


@pytest.mark.parametrize(
    ("column", "unit", "missing"),
    [("FWHM_IMAGE", 1.0, -4.0), ("FWHM_IMAGE", 1.0, 0.0), ("FWHM_WORLD", SCALE / 3600, 99.0)],
)
def test_a_size_that_is_none_is_ignored_and_never_drawn(tmp_path, column, unit, missing):
    sizes = np.full(len(X), FWHM * unit)
    sizes[3] = missing
    truth = truth_of(written(tmp_path, {"X_IMAGE": X + 1, "Y_IMAGE": Y + 1, column: sizes}))
    assert np.flatnonzero(truth.ignored).tolist() == [3]
    np.testing.assert_allclose(truth.boxes, RIGHT, atol=0.05)  # that of the median side in its place


def test_magnitudes_of_99_are_none(tmp_path):
    magnitudes = np.full(len(X), 15.0)
    magnitudes[3] = 99.0
    columns = {"X_IMAGE": X + 1, "Y_IMAGE": Y + 1, "FWHM_IMAGE": FWHM, "MAG_CALIB": magnitudes}
    truth = truth_of(written(tmp_path, columns))
    assert np.flatnonzero(~np.isfinite(truth.brightness)).tolist() == [3]
    assert_right(truth)


def test_a_kron_radius_of_zero_leaves_three_sigma(tmp_path):
    kron = np.where(np.arange(len(X)) % 2, 0.0, 2.0)
    columns = {
        "X_IMAGE": X + 1,
        "Y_IMAGE": Y + 1,
        "A_IMAGE": 2.0,
        "B_IMAGE": 2.0,
        "THETA_IMAGE": 0.0,
        "KRON_RADIUS": kron,
    }
    truth = truth_of(written(tmp_path, columns), TruthSpec(box_rule="catalogue", unlisted=False))
    sides = truth.boxes[:, 2] - truth.boxes[:, 0]
    np.testing.assert_allclose(sides, np.where(kron == 0, 2 * 3 * 2.0, 2 * 2 * 2.0))


def test_rows_given_twice_count_once(tmp_path):
    frame, catalogue = written(tmp_path, {"X_IMAGE": X + 1, "Y_IMAGE": Y + 1, "FWHM_IMAGE": FWHM})
    lines = catalogue.read_text().splitlines()
    catalogue.write_text("\n".join([*lines, *lines[3:]]) + "\n")
    truth = truth_of((frame, catalogue))
    assert_right(truth)
    assert any("repeat" in warning for warning in truth.warnings)


def test_the_catalogue_of_another_frame_is_set_apart(tmp_path):
    rng = np.random.default_rng(2)
    columns = {"X_IMAGE": rng.uniform(10, 210, len(X)), "Y_IMAGE": rng.uniform(10, 190, len(X)), "FWHM_IMAGE": FWHM}
    (tmp_path / "archive").mkdir()
    written(tmp_path / "archive", columns)
    [row] = curate(tmp_path / "archive", tmp_path / "dataset", workers=1)
    assert row["state"] == "apart"
    assert "does not fit the frame" in row["reason"]


@pytest.mark.parametrize("wrong", [0.4, 2.0])
def test_wrong_sizes_are_measured_again(tmp_path, wrong):
    files = written(tmp_path, {"X_IMAGE": X + 1, "Y_IMAGE": Y + 1, "FWHM_IMAGE": wrong * FWHM})
    assert_right(truth_of(files, MEASURED), tolerance=0.6)
