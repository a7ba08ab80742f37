"""A thousand mutated files through the application: each is answered or refused, and no refusal shows our inside."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lynceus.bundle import Bundle
from lynceus.detector import Detector
from lynceus.network import RawDetections
from lynceus.reading import Limits
from service.app import create_app
from service.settings import Settings
from tests.fakes import BRIGHT, SMALL_TILES, FixedNetwork, fits_bytes, fixed_bundle, star_field
from tests.fuzz.mutations import mutated_files
from tests.in_process import Asker, in_process

EXAMPLES = 1000
FRAME = fits_bytes(star_field((32, 40), [(20, 16)]))
REFUSALS = {400: "bad_parameter", 404: None, 413: "too_large", 415: "not_fits", 422: None}
INSIDE = ("Traceback", ".py", "site-packages", " object at 0x")


@dataclass
class Calm(FixedNetwork):
    """A FixedNetwork that takes any pixel: here bright ones are not meant to make it fail."""

    def look(self, tile: Tensor) -> RawDetections:
        return super().look(tile.clamp(max=BRIGHT))


def calm_bundle() -> Bundle:
    return replace(fixed_bundle(), detector=Detector(Calm(), SMALL_TILES))


@pytest.fixture
def app() -> Iterator[Asker]:
    limits = Limits(pixels=1_000_000, bytes=20_000_000)
    with in_process(create_app(Settings(device="cpu", workers=1, limits=limits), calm_bundle())) as asker:
        yield asker


def check(answer: Any) -> None:
    """Refuse an answer that is none: a 5xx, a wrong type, a list that does not fit its count, our inside."""
    kind = answer.headers["content-type"]
    if answer.status_code == 200:
        assert kind.startswith(("application/json", "application/x-votable+xml", "text/csv"))
        if kind == "application/json":
            body = json.loads(answer.content, parse_constant=pytest.fail)  # NaN and Infinity are not JSON
            for block in body.get("frames", [body]):
                assert block["count"] == len(block["detections"])
        return
    assert answer.status_code in REFUSALS, answer.text
    assert not [word for word in INSIDE if word in answer.text], answer.text
    if kind == "application/problem+json":
        body = answer.json()
        assert body["status"] == answer.status_code
        assert body["code"] == REFUSALS[answer.status_code] or REFUSALS[answer.status_code] is None
    else:
        assert kind.startswith("application/x-votable+xml")
        assert b'value="ERROR"' in answer.content


def ask(app: Asker, file: bytes, query: str, part: str) -> Any:
    """Send a file as the body, or as a part of a form beside a sound frame."""
    if part == "body":
        return app.post(f"/detect{query}", content=file)
    return app.post(f"/detect{query}", files={"frame": FRAME} | {part: file})


def test_mutated_files_are_answered_or_refused_and_leave_nothing_behind(app: Asker) -> None:
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        file=mutated_files(),
        query=st.sampled_from(["", "", "?hdu=all", "?hdu=1", "?format=votable", "?format=csv", "?measure=false"]),
        part=st.sampled_from(["body", "body", "frame", "mask", "weight"]),
    )
    def one(file: bytes, query: str, part: str) -> None:
        answer = ask(app, file, query, part)
        statuses[answer.status_code] += 1
        check(answer)

    one()
    print("answers by status:", dict(statuses))
    assert sum(statuses.values()) >= EXAMPLES
    assert min(statuses[200], statuses[422]) > EXAMPLES / 20  # else the mutations are too coarse, or too fine
    assert app.post("/detect", content=FRAME).json()["count"] == 1
    text = app.get("/metrics").text
    assert "lynceus_queue_tiles 0.0" in text
    assert 'code="5' not in text
