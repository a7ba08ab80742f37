"""Laws of what lies on a trail: its pieces go, stars and galaxies on it stay, and the user is told once."""

import asyncio

import httpx
import numpy as np
import pytest
from astropy.io import votable

from lynceus.bundle import Bundle
from lynceus.detections import Detections, box_about
from lynceus.detector import Detector, DetectorSpec
from lynceus.frame import Frame
from lynceus.on_trails import OnTrail, leave_out
from lynceus.sky import SkySpec, estimate_sky
from lynceus.tiling import TileSpec
from lynceus.trails import Trail, TrailSpec
from service.app import create_app
from service.settings import Settings
from tests.fakes import FixedNetwork, fits_bytes, fixed_bundle

SIDE, NOISE, SKY, FWHM = 400, 10.0, 1000.0, 3.0
START, END = (0.0, 100.0), (399.0, 300.0)
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE].astype(np.float64)
SPEC = DetectorSpec(tile=TileSpec(size=128, overlap=32), trails=TrailSpec(), min_score=0.5)
STARS = [(60.0, 300.0), (300.0, 80.0), (200.0, 330.0)]


def on_line(share: float, beside: float = 0.0) -> tuple[float, float]:
    """A place on the trail, a share of its way along and some pixels beside it."""
    start, end = np.array(START), np.array(END)
    along = (end - start) / np.hypot(*(end - start))
    x, y = start + share * (end - start) + beside * np.array([-along[1], along[0]])
    return float(x), float(y)


def blob(x: float, y: float, peak: float) -> np.ndarray:
    return peak * np.exp(-4 * np.log(2) * ((COLUMNS - x) ** 2 + (ROWS - y) ** 2) / FWHM**2)


def trailed(height: float, stars: list[tuple[float, float, float]], seed: int = 0) -> Frame:
    """A frame with a trail of so many ADU, and stars `x, y, peak`."""
    (x0, y0), (x1, y1) = START, END
    across = ((ROWS - y0) * (x1 - x0) - (COLUMNS - x0) * (y1 - y0)) / np.hypot(x1 - x0, y1 - y0)
    light = height * np.exp(-4 * np.log(2) * across**2 / FWHM**2) + sum(blob(*star) for star in stars)
    return Frame((np.random.default_rng(seed).normal(SKY, NOISE, (SIDE, SIDE)) + light).astype(np.float32))


def detections_at(places: list[tuple[float, float]]) -> Detections:
    x, y = np.array(places).reshape(-1, 2).T
    sides = np.full(len(x), 8.0)
    scores = np.linspace(0.9, 0.3, len(x)).astype(np.float32)
    return Detections(box_about(x, y, sides, sides).astype(np.float32), scores, np.zeros(len(x), np.int64))


TRAIL = Trail(*START, *END, 10.0)
PIECES = [on_line(share) for share in (0.02, 0.2, 0.35, 0.5, 0.71, 0.98)]


@pytest.mark.parametrize("height", [30.0, 300.0, 5000.0])
def test_pieces_go_and_everything_else_stays(height):
    star, aside = on_line(0.6), on_line(0.4, beside=15.0)
    frame = trailed(height, [(*star, max(3 * height, 300)), (*aside, 300)])
    found = detections_at([*PIECES, star, aside, STARS[0]])
    kept, (noted,) = leave_out(found, [TRAIL], frame, estimate_sky(frame, SkySpec()))
    assert len(noted.left_out) == len(PIECES)
    np.testing.assert_array_equal(kept.boxes, found.boxes[len(PIECES) :])
    np.testing.assert_array_equal(noted.left_out.boxes, found.boxes[: len(PIECES)])


def test_a_trail_that_is_none_costs_no_star():
    places = [on_line(share) for share in (0.1, 0.3, 0.45, 0.8)]
    frame = trailed(0.0, [(*place, 80.0) for place in places])
    kept, (noted,) = leave_out(detections_at(places), [TRAIL], frame, estimate_sky(frame, SkySpec()))
    assert len(kept) == len(places)
    assert not len(noted.left_out)


def test_where_trails_cross_a_piece_is_left_out_once():
    frame = trailed(300.0, [])
    trails = [TRAIL, TRAIL._replace(width=12.0)]
    kept, noted = leave_out(detections_at(PIECES), trails, frame, estimate_sky(frame, SkySpec()))
    assert [len(one.left_out) for one in noted] == [len(PIECES), 0]
    assert not len(kept)


def test_without_trails_or_detections_nothing_happens():
    frame = trailed(0.0, [])
    found = detections_at(PIECES)
    kept, noted = leave_out(found, [], frame, estimate_sky(frame, SkySpec()))
    assert (len(kept), noted) == (len(found), ())
    kept, (one,) = leave_out(Detections.empty(), [TRAIL], frame, estimate_sky(frame, SkySpec()))
    assert len(kept) == len(one.left_out) == 0


@pytest.mark.parametrize(("min_score", "told"), [(0.0, "6 detections on it were"), (0.85, "1 detection on it was")])
def test_a_user_is_told_of_those_he_would_have_got(min_score, told):
    warning = OnTrail(TRAIL, detections_at(PIECES)).warning(min_score)
    assert warning == f"a trail crosses the frame from (0, 100) to (399, 300), 10 px wide; {told} left out"


def test_the_detector_leaves_pieces_out_where_its_bundle_says_so():
    frame = trailed(600.0, [(*star, 3000.0) for star in STARS])
    plain = Detector(FixedNetwork(), SPEC.model_copy(update={"trails": None}))
    with_pieces = plain.detect(frame)
    assert len(with_pieces) > len(STARS) + 10
    detector = Detector(FixedNetwork(), SPEC)
    cut = detector.cut(frame)
    joined = detector.joined(cut, detector.run(cut.all_tiles))
    assert len(joined.detections) == len(STARS)
    assert len(joined.detections) + sum(len(one.left_out) for one in joined.on_trails) == len(with_pieces)
    assert len(plain.joined(plain.cut(frame), plain.run(cut.all_tiles)).on_trails) == 0


def test_bundles_of_before_look_for_no_trails():
    assert DetectorSpec().trails is None
    assert DetectorSpec.model_validate({"tile": {"size": 128}}).trails is None


@pytest.fixture(scope="module")
def answers() -> dict[str, httpx.Response]:
    """What a server says of a frame with a trail: JSON, VOTable, and JSON for a high score only."""
    frame = fits_bytes(trailed(600.0, [(*star, 3000.0) for star in STARS]).pixels)
    bundle = fixed_bundle(SPEC)
    app = create_app(Settings(device="cpu", canary_shadow=0), Bundle(Detector(FixedNetwork(), SPEC), bundle.manifest))

    async def ask() -> dict[str, httpx.Response]:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                queries = {"json": "", "votable": "?format=votable", "sure": "?min_score=0.999"}
                return {name: await client.post(f"/detect{query}", content=frame) for name, query in queries.items()}

    return asyncio.run(ask())


def test_the_answer_has_the_stars_and_one_warning(answers):
    body = answers["json"].json()
    assert body["count"] == len(STARS)
    (warning,) = body["warnings"]
    assert warning.startswith("a trail crosses the frame from (")
    assert warning.endswith("detections on it were left out")
    assert "; 0 detections on it were left out" in answers["sure"].json()["warnings"][0]


def test_a_votable_has_the_same_warning(answers, tmp_path):
    (tmp_path / "a.vot").write_bytes(answers["votable"].content)
    table = votable.parse(str(tmp_path / "a.vot")).get_first_table()
    told = [str(info.value) for info in table.infos if info.name == "WARNING"]
    assert told == answers["json"].json()["warnings"]
