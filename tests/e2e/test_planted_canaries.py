"""Canaries with planted virtues and faults on real servers, beside one stable version: is each judged rightly?"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from examples.running import free_port, running
from lynceus.compare import compare
from lynceus.compare_files import catalogues_of, compare_command, fits_files
from lynceus.comparison import CompareSpec, Comparison, Endpoint
from lynceus.decision import Decision, DecisionSpec, Outcome, decide
from tests.fakes import NOISE, SKY, fits_bytes

FRAMES, SIDE, SOURCES, FWHM = 9, 320, 50, 3.0
# Other tests run beside this one on the same cores, and frames are small: time is less certain than on a service.
SPEC = CompareSpec(decision=DecisionSpec(resamples=2000, tolerance={"latency": 2.0}))
VERSIONS = ("stable", "other_seed", "better", "shifted", "blind", "slow")

pytestmark = pytest.mark.xdist_group("planted canaries")


def scene(seed: int) -> tuple[bytes, bytes]:
    """A frame of stars, most of them faint, and its catalogue in SExtractor's format."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(8, SIDE - 9, (2, SOURCES))
    snr = np.minimum(4 * rng.random(SOURCES) ** -0.8, 500)
    pixels = rng.normal(SKY, NOISE, (SIDE, SIDE))
    rows, columns = np.indices(pixels.shape)
    for star in zip(x, y, snr, strict=True):
        profile = np.exp(-4 * np.log(2) * ((columns - star[0]) ** 2 + (rows - star[1]) ** 2) / FWHM**2)
        pixels += star[2] * NOISE / np.sqrt((profile**2).sum()) * profile
    head = "#   1 X_IMAGE [pixel]\n#   2 Y_IMAGE [pixel]\n#   3 FWHM_IMAGE [pixel]\n#   4 FLAGS\n"
    lines = [f"{one_x + 1:.3f} {one_y + 1:.3f} {FWHM} 0" for one_x, one_y in zip(x, y, strict=True)]
    return fits_bytes(pixels.astype(np.float32)), (head + "\n".join(lines) + "\n").encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames with their catalogues, and two darks."""
    folder = tmp_path_factory.mktemp("night")
    (folder / "darks").mkdir()
    for number in range(FRAMES):
        frame, catalogue = scene(number)
        (folder / f"frame{number}.fits").write_bytes(frame)
        (folder / f"frame{number}.cat").write_bytes(catalogue)
    for number in range(2):
        dark = np.random.default_rng(100 + number).normal(SKY, NOISE, (SIDE, SIDE))
        (folder / "darks" / f"dark{number}.fits").write_bytes(fits_bytes(dark.astype(np.float32)))
    return folder


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of the servers of all versions."""
    ports = {name: free_port() for name in VERSIONS}
    arguments = [f"{name}={port}" for name, port in ports.items()]
    command = [sys.executable, "-m", "tests.e2e.planted_service", *arguments]
    log = tmp_path_factory.mktemp("servers") / "log"
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("LYNCEUS_WORKERS", "1")
        stack.enter_context(running(command, ports["stable"], log))
        yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}


@pytest.fixture(scope="module")
def compared(addresses: dict[str, str], folder: Path) -> Callable[[str], Comparison]:
    """Compare a version with stable, once, with all the evidence there is."""
    results: dict[str, Comparison] = {}
    frames = fits_files(folder)

    def result(name: str) -> Comparison:
        if name not in results:
            ends = Endpoint.parse(addresses["stable"]), Endpoint.parse(addresses[name])
            results[name] = compare(*ends, frames, catalogues_of(frames, folder), fits_files(folder / "darks"), SPEC)
        return results[name]

    return result


def without_catalogues(result: Comparison) -> Decision:
    """What would have been decided had there been none: nothing else of the evidence hangs on them."""
    frames = tuple(frame.model_copy(update={"scores": None}) for frame in result.evidence.frames)
    return decide(result.evidence.model_copy(update={"frames": frames}), SPEC.decision)


@pytest.mark.parametrize("catalogues", [True, False])
@pytest.mark.parametrize(
    ("name", "outcome", "reasons"),
    [
        ("better", Outcome.PROMOTE, ["figures looked at is worse"]),
        ("other_seed", Outcome.HOLD, ["no figure is better"]),
        ("shifted", Outcome.ROLL_BACK, ["its boxes are off their sources by 1.5", "x +1.5 px, y "]),
        ("blind", Outcome.ROLL_BACK, ["of the faint planted stars, stable"]),
        ("slow", Outcome.ROLL_BACK, ["times the time that stable takes"]),
    ],
)
def test_a_canary_is_judged_rightly(compared, name, outcome, reasons, catalogues):
    result = compared(name)
    decision = result.decision if catalogues else without_catalogues(result)
    assert decision.outcome is outcome, decision.reasons
    for reason in reasons:
        assert any(reason in one for one in decision.reasons), decision.reasons
    if name in ("shifted", "slow"):  # for this reason, and for what follows from it
        assert {one.name for one in decision.quantities if one.verdict == "worse"} <= {
            "shifted": {"box_offset", "best_iou_per_gt", "f1", "recall", "precision", "map_50"},
            "slow": {"latency"},
        }[name]


def test_the_evidence_is_all_there(compared):
    evidence = compared("blind").evidence
    assert len(evidence.frames) == FRAMES
    assert len(evidence.darks) == 2
    for frame in evidence.frames:
        assert frame.scores is not None
        assert frame.inverted is not None
        assert frame.faint is not None
        assert frame.faint.planted + frame.bright.planted > 15
        assert frame.offsets.reference == "planted stars"
        assert frame.times.server is not None
        assert not frame.notes


def test_the_command_says_it_and_writes_reports(addresses, folder, tmp_path, capsys):
    json_path, html_path = tmp_path / "report.json", tmp_path / "report.html"
    code = compare_command(
        addresses["stable"], addresses["blind"], folder, json_path=json_path, html_path=html_path, max_frames=6
    )
    assert code == 20
    assert capsys.readouterr().out.startswith("ROLL BACK: planted 1.4.0 against planted 1.0.0\n  - it finds")
    report = json.loads(json_path.read_text())
    assert (report["outcome"], report["exit_code"], len(report["frames"])) == ("ROLL BACK", 20, 6)
    assert report["versions"]["canary"]["version"] == "1.4.0"
    page = html_path.read_text()
    assert page.count("data:image/png;base64,") == SPEC.drawn
    assert "ROLL BACK" in page


def test_a_version_is_not_compared_with_itself_unless_asked(addresses, folder, tmp_path, capsys):
    address = addresses["stable"]
    json_path = tmp_path / "report.json"
    assert compare_command(address, f"{address}@planted/1.0.0", folder, json_path=json_path) == 30
    assert "both answers were made by planted 1.0.0" in capsys.readouterr().err
    assert json.loads(json_path.read_text())["exit_code"] == 30
    assert compare_command(address, f"{address}@1.0.0", folder, allow_same=True, max_frames=5) == 10


def test_a_version_that_is_not_there_cannot_be_compared(addresses, folder, capsys):
    address = addresses["stable"]
    assert compare_command(address, f"{address}@canary", folder) == 30
    assert "no version or track 'canary' is loaded" in capsys.readouterr().err
    assert compare_command(address, f"http://127.0.0.1:{free_port()}", folder) == 30
    assert "could not compare: the server of canary" in capsys.readouterr().err
