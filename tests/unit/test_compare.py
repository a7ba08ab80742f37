import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from lynceus.compare import compare
from lynceus.compare_files import catalogues_of, compare_command, drawn, fits_files
from lynceus.comparison import CompareSpec, Comparison, Endpoint
from lynceus.comparison_report import comparison_json, comparison_page
from lynceus.decision import DecisionSpec, Outcome
from lynceus.errors import ComparisonError, RefusedError, ServiceError, UnavailableError
from lynceus.frame import read_frame
from lynceus.injection import PlantSpec
from tests.fakes import NOISE, SKY, fits_bytes, star_field

SPEC = CompareSpec(plant=PlantSpec(count=12), decision=DecisionSpec(resamples=1000))
ENDS = Endpoint("http://a"), Endpoint("http://b", "canary")
SCORES = {"counts": {"matched": 9, "missed": 1, "extra": 0, "ignored": 0}, "map_50": 0.8, "best_iou_per_gt": 0.7}


class FakeServer:
    """Stands for a client: finds what is `limit` standard deviations above the sky, as fast as it is told."""

    def __init__(self, version: str = "1.0.0", limit: float = 6.0, milliseconds: float = 100.0) -> None:
        self.version = version
        self.limit = limit
        self.milliseconds = milliseconds
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.fault: Callable[[int, bytes], Exception | None] = lambda number, data: None

    @property
    def model(self) -> dict[str, str]:
        digest = hashlib.sha256(self.version.encode()).hexdigest()
        return {"name": "fake", "version": self.version, "track": "stable", "sha256": digest}

    def models(self) -> dict[str, Any]:
        return {"models": [self.model | {"tracks": ["stable", "canary"]}]}

    def detect(self, frame: bytes, **query: Any) -> dict[str, Any]:
        self._ask("detect", frame, query)
        pixels = read_frame(frame).pixels
        peaks = (pixels == maximum_filter(pixels, 9)) & (pixels > SKY + self.limit * NOISE)
        rows = [self._row(x, y, (pixels[y, x] - SKY) / NOISE) for y, x in np.argwhere(peaks).tolist()]
        timing = {"decode": 1.0, "queue": 1e6, "infer": self.milliseconds}
        return {"model": self.model, "frame": {"fwhm_px": 3.0}, "timing_ms": timing, "detections": rows}

    def evaluate(self, frame: bytes, catalogue: bytes, **query: Any) -> dict[str, Any]:
        self._ask("evaluate", frame, query)
        return {"model": self.model, "evaluation": SCORES}

    def _ask(self, what: str, frame: bytes, query: dict[str, Any]) -> None:
        self.asked.append((what, query))
        if error := self.fault(len(self.asked), frame):
            raise error

    def _row(self, x: int, y: int, snr: float) -> dict[str, Any]:
        box = [x - 3.5, y - 3.5, x + 4.5, y + 4.5]
        return {"x": x, "y": y, "box": box, "score": 0.9, "flux": 10 * snr, "snr": 2 * snr, "fwhm": 3.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    for number in range(6):
        stars = np.random.default_rng(number).uniform(10, 150, (8, 2)).tolist()
        (folder / f"{number}.fits").write_bytes(fits_bytes(star_field((160, 160), stars, seed=number)))
        (folder / f"{number}.cat").write_bytes(b"a catalogue")
    return folder


def run(stable: FakeServer, canary: FakeServer, frames: list[Path], **options: Any) -> Comparison:
    servers = dict(zip(ENDS, (stable, canary), strict=True))
    spec = options.pop("spec", SPEC)
    return compare(*ENDS, frames, spec=spec, connect=lambda end: nullcontext(servers[end]), **options)


def versions() -> tuple[FakeServer, FakeServer]:
    return FakeServer(), FakeServer("2.0.0")


def only_frame(path: Path, error: Exception) -> Callable[[int, bytes], Exception | None]:
    """Fail on one frame as it is."""
    data = path.read_bytes()
    return lambda number, frame: error if frame == data else None


def test_two_versions_that_see_the_same_are_held(folder):
    stable, canary = versions()
    result = run(stable, canary, fits_files(folder))
    assert result.decision.outcome is Outcome.HOLD
    assert (str(result.stable), str(result.canary)) == ("fake 1.0.0", "fake 2.0.0")
    assert all(frame.pairing["agreement"] == 1 for frame in result.evidence.frames)
    assert all(frame.faint.planted + frame.bright.planted > 5 for frame in result.evidence.frames)
    assert [one["model"] for _, one in canary.asked] == ["canary"] * len(canary.asked)
    assert {one["priority"] for _, one in stable.asked} == {"backfill"}


def test_it_needs_one_answer_each_to_warm_up_and_then_takes_turns(folder):
    stable, canary = versions()
    order: list[str] = []
    stable.fault = lambda number, data: order.append("stable")
    canary.fault = lambda number, data: order.append("canary")
    run(stable, canary, fits_files(folder))
    warm_up, rest = order[:2], order[2:]
    assert warm_up == ["stable", "canary"]
    firsts = rest[::2]
    assert firsts[::2] == ["stable"] * len(firsts[::2])
    assert firsts[1::2] == ["canary"] * len(firsts[1::2])


def test_a_blind_version_is_rolled_back(folder):
    result = run(FakeServer(limit=4.5), FakeServer("2.0.0", limit=12.0), fits_files(folder))
    assert result.decision.outcome is Outcome.ROLL_BACK
    assert any("planted stars" in reason for reason in result.decision.reasons)


def test_a_slow_version_is_rolled_back_by_the_servers_own_clock(folder):
    result = run(FakeServer(), FakeServer("2.0.0", milliseconds=300.0), fits_files(folder))
    assert result.decision.outcome is Outcome.ROLL_BACK
    assert result.decision.reasons[0].startswith("it takes 2.98 times the time")


def test_scores_come_from_the_servers(folder):
    frames = fits_files(folder)
    result = run(*versions(), frames, catalogues=catalogues_of(frames, folder))
    assert {frame.scores.stable.matched for frame in result.evidence.frames} == {9}
    assert any(one.name == "f1" and one.canary == pytest.approx(18 / 19) for one in result.decision.quantities)


def test_a_catalogue_that_neither_takes_is_a_note(folder):
    stable, canary = versions()
    for server in (stable, canary):
        server.evaluate = lambda frame, catalogue, **query: (_ for _ in ()).throw(RefusedError("no table", status=422))
    frames = fits_files(folder)
    result = run(stable, canary, frames, catalogues=catalogues_of(frames, folder))
    assert result.decision.outcome is Outcome.HOLD
    assert all("not scored" in frame.notes[0] and "no table" in frame.notes[0] for frame in result.evidence.frames)


def test_a_frame_that_both_refuse_is_left_out(folder):
    frames, (stable, canary) = fits_files(folder), versions()
    for server in (stable, canary):
        server.fault = only_frame(frames[2], RefusedError("not FITS", status=415))
    result = run(stable, canary, frames)
    assert result.decision.outcome is Outcome.HOLD
    [left_out] = result.evidence.left_out
    assert (left_out.frame, left_out.reason) == ("2.fits", "neither version answers: not FITS")
    assert len(result.evidence.frames) == 5


def test_a_frame_that_only_stable_fails_on_says_nothing(folder):
    frames, (stable, canary) = fits_files(folder), versions()
    stable.fault = only_frame(frames[2], ServiceError("it broke", status=500))
    assert run(stable, canary, frames).evidence.left_out[0].reason == "stable does not answer: it broke"


@pytest.mark.parametrize("error", [RefusedError("too odd", status=422), ServiceError("it broke", status=500)])
def test_a_frame_that_only_the_canary_fails_on_rolls_it_back(folder, error):
    frames, (stable, canary) = fits_files(folder), versions()
    canary.fault = only_frame(frames[3], error)
    result = run(stable, canary, frames)
    assert result.decision.outcome is Outcome.ROLL_BACK
    assert result.decision.reasons == (f"it failed on 3.fits, which stable answered: {error}",)
    assert len(result.evidence.frames) == 5


def test_failing_on_a_frame_with_planted_stars_counts_too(folder):
    frames, (stable, canary) = fits_files(folder), versions()
    originals = {path.read_bytes() for path in frames}
    canary.fault = lambda number, data: None if data in originals else ServiceError("it broke", status=500)
    result = run(stable, canary, frames)
    assert result.decision.outcome is Outcome.ROLL_BACK
    assert result.decision.reasons[0].endswith("with planted stars: it broke")


def test_a_failure_that_does_not_come_back_is_forgiven(folder):
    stable, canary = versions()
    canary.fault = lambda number, data: UnavailableError("full", status=503) if number == 3 else None
    result = run(stable, canary, fits_files(folder))
    assert (result.decision.outcome, result.evidence.failures) == (Outcome.HOLD, ())


def test_a_canary_that_answers_nothing_is_rolled_back(folder):
    stable, canary = versions()
    canary.fault = lambda number, data: ServiceError("it broke", status=500)
    assert run(stable, canary, fits_files(folder)).decision.outcome is Outcome.ROLL_BACK


def test_a_file_that_is_gone_is_left_out(folder):
    result = run(*versions(), [*fits_files(folder), folder / "gone.fits"])
    assert result.evidence.left_out[0].reason == "No such file or directory"


def test_darks_are_counted(folder, tmp_path):
    dark = tmp_path / "dark.fits"
    dark.write_bytes(fits_bytes(star_field((160, 160), [], seed=9)))
    result = run(FakeServer(), FakeServer("2.0.0", limit=3.0), fits_files(folder), darks=[dark] * 5)
    assert result.decision.outcome is Outcome.ROLL_BACK
    assert any("on a dark" in reason for reason in result.decision.reasons)


def test_one_version_under_two_names_is_not_compared_unless_asked(folder):
    with pytest.raises(ComparisonError, match=r"both answers were made by fake 1\.0\.0"):
        run(FakeServer(), FakeServer(), fits_files(folder))
    allowed = SPEC.model_copy(update={"allow_same": True})
    assert run(FakeServer(), FakeServer(), fits_files(folder), spec=allowed).decision.outcome is Outcome.HOLD


def test_a_version_that_changes_in_the_middle_is_not_compared(folder):
    stable, canary = versions()

    def swap(number: int, data: bytes) -> None:
        canary.version = "2.0.0" if number < 5 else "3.0.0"

    canary.fault = swap
    with pytest.raises(ComparisonError, match=r"canary changed from fake 2\.0\.0 to fake 3\.0\.0"):
        run(stable, canary, fits_files(folder))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UnavailableError("cannot be reached", code="unreachable"), "stable at http://a@stable: cannot be reached"),
        (RefusedError("no such model", status=404), "no such model"),
        (RefusedError("no key", status=401), "no key"),
    ],
)
def test_a_server_that_is_away_or_not_ours_ends_it(folder, error, text):
    stable, canary = versions()
    stable.fault = lambda number, data: error if number > 4 else None
    with pytest.raises(ComparisonError, match=text):
        run(stable, canary, fits_files(folder))


def test_a_stranger_is_not_understood(folder):
    stable, canary = versions()
    canary.detect = lambda frame, **query: {"hello": "world"}
    with pytest.raises(ComparisonError, match="cannot be understood"):
        run(stable, canary, fits_files(folder))


def test_too_few_frames_are_not_compared(folder):
    with pytest.raises(ComparisonError, match="4 frames can be used, and 5 are needed"):
        run(*versions(), fits_files(folder)[:4])


def test_a_frame_that_cannot_be_read_here_is_compared_without_planted_stars(folder, monkeypatch):
    monkeypatch.setattr("lynceus.compare.read_frame", lambda data: (_ for _ in ()).throw(ComparisonError("odd")))
    result = run(*versions(), fits_files(folder))
    assert all(frame.faint is None and "odd" in frame.notes[0] for frame in result.evidence.frames)
    assert {frame.offsets.reference for frame in result.evidence.frames} == {"measured centroids"}


def test_the_same_frames_and_seed_give_the_same_evidence(folder):
    first, second = (run(*versions(), fits_files(folder)) for _ in range(2))
    left, right = (
        [frame.model_dump(exclude={"times"}) for frame in result.evidence.frames] for result in (first, second)
    )
    assert left == right


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("http://host:3000", Endpoint("http://host:3000", "stable")),
        ("https://host/base@canary", Endpoint("https://host/base", "canary")),
        (" http://10.0.0.1:3000@compact/0.1.0 ", Endpoint("http://10.0.0.1:3000", "compact/0.1.0")),
    ],
)
def test_endpoints_are_read(text, endpoint):
    assert Endpoint.parse(text) == endpoint


@pytest.mark.parametrize("text", ["host:3000", "ftp://host", "http://", "http://host@", "http://me:secret@host:3000"])
def test_what_is_no_endpoint_is_refused(text):
    with pytest.raises(ComparisonError, match="is no version on a server"):
        Endpoint.parse(text)


def test_catalogues_go_by_the_name_of_their_frame(tmp_path):
    names = ["a.fits", "b.FITS.gz", "c_U_imc.fits.gz", "d.fits"]
    for name in (*names, "A.cat", "b.ecsv", "c_U_imc_trl.dat", "notes.txt"):
        (tmp_path / name).touch()
    found = catalogues_of(fits_files(tmp_path), tmp_path)
    assert {frame.name: table.name for frame, table in found.items()} == {
        "a.fits": "A.cat",
        "b.FITS.gz": "b.ecsv",
        "c_U_imc.fits.gz": "c_U_imc_trl.dat",
    }
    (tmp_path / "empty").mkdir()
    with pytest.raises(ComparisonError, match="no file in"):
        catalogues_of(fits_files(tmp_path), tmp_path / "empty")
    with pytest.raises(ComparisonError, match="no FITS file"):
        fits_files(tmp_path / "empty")


def test_frames_are_drawn_by_the_seed_and_keep_their_order():
    frames = [Path(f"{number:03d}.fits") for number in range(100)]
    chosen = drawn(frames, 10, seed=1)
    assert chosen == sorted(chosen) == drawn(frames, 10, seed=1) != drawn(frames, 10, seed=2)
    assert len(set(chosen)) == 10
    assert drawn(frames, None, 0) == drawn(frames, 100, 0) == frames


def test_the_command_writes_reports_and_gives_the_code(folder, tmp_path, capsys):
    servers = dict(zip(ENDS, (FakeServer(limit=4.5), FakeServer("2.0.0", limit=12.0)), strict=True))
    json_path, html_path = tmp_path / "new" / "report.json", tmp_path / "report.html"
    code = compare_command(
        str(ENDS[0]), str(ENDS[1]), folder, json_path=json_path, html_path=html_path, spec=SPEC,
        connect=lambda end: nullcontext(servers[end]),
    )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 20
    assert printed.out.startswith("ROLL BACK: fake 2.0.0 against fake 1.0.0\n  - it finds")
    assert printed.err == ""
    report = json.loads(json_path.read_text())
    assert (report["schema_version"], report["outcome"], report["exit_code"]) == ("1.0", "ROLL BACK", 20)
    assert len(report["frames"]) == 6
    assert {one["verdict"] for one in report["quantities"]} >= {"worse", "reported"}
    assert "<svg" in html_path.read_text()


def test_what_could_not_be_compared_is_said_in_the_report_too(folder, tmp_path, capsys):
    path = tmp_path / "report.json"
    same = lambda end: nullcontext(FakeServer())  # noqa: E731
    assert compare_command("http://a", "http://b", folder, json_path=path, connect=same) == 30
    assert capsys.readouterr().err.startswith("could not compare: both answers were made by fake 1.0.0")
    assert json.loads(path.read_text())["outcome"] == "COULD NOT COMPARE"
    assert compare_command("http://a", "nowhere", folder, connect=same) == 30
    assert compare_command("http://a", "http://b", folder / "nothing", connect=same) == 30


def test_the_page_needs_nothing_from_anywhere_and_draws_the_most_different_frames(folder):
    result = run(FakeServer(limit=4.5), FakeServer("2.0.0", limit=60.0), fits_files(folder))
    amounts = [one.amount for one in result.differences]
    assert amounts == sorted(amounts, reverse=True)
    page = comparison_page(result)
    assert page.count("data:image/png;base64,") == SPEC.drawn == len(result.differences)
    assert 'src="http' not in page
    assert "<link" not in page
    assert "<script" not in page
    assert f"{result.differences[0].path.name}: " in page
    assert "fake 2.0.0 against fake 1.0.0" in page


def test_a_page_of_frames_that_are_gone_has_no_pictures(tmp_path, folder):
    copies = [tmp_path / path.name for path in fits_files(folder)]
    for copy in copies:
        copy.write_bytes((folder / copy.name).read_bytes())
    result = run(*versions(), copies)
    for copy in copies:
        copy.unlink()
    assert "data:image/png" not in comparison_page(result)


def test_the_json_report_has_no_nan(folder):
    report = comparison_json(run(*versions(), fits_files(folder)))
    assert json.loads(report, parse_constant=pytest.fail)["versions"]["stable"]["endpoint"] == "http://a@stable"
