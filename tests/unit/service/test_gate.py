"""Who comes in: keys before bodies, rates by key, and what stays open."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynceus.errors import LynceusError
from service.app import create_app
from service.gate import Bucket, Gate
from service.keys import Keyring, read_keys
from service.refusals import RateLimitedError, UnauthorizedError
from service.settings import Settings
from tests.fakes import fits_bytes, fixed_bundle, star_field
from tests.in_process import Asker, in_process

KEY, SLOW_KEY = "key-of-the-pipeline", "key-of-a-slow-caller"
KEYS = read_keys(f"pipeline {KEY}\nslow {SLOW_KEY} 60")
FRAME = fits_bytes(star_field((64, 64), [(30, 30)]))
BEARER = {"Authorization": f"Bearer {KEY}"}
GUARDED = [("POST", "/detect"), ("PUT", "/detect"), ("POST", "/evaluate"), ("GET", "/models")]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Asker]:
    settings = Settings(device="cpu", workers=1, api_keys=KEYS, metrics_key=True)
    with in_process(create_app(settings, fixed_bundle())) as asker:
        yield asker


@pytest.mark.parametrize(("method", "path"), [*GUARDED, ("GET", "/metrics")])
def test_without_a_key_nothing_is_told(guarded: Asker, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Basic bmlnaHQ6bmlnaHQ="}, {"Authorization": "Bearer"}):
        answer = guarded.ask(method, path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == 'Bearer realm="lynceus"'
        assert answer.headers["content-type"] == "application/problem+json"


def test_an_unknown_key_is_told_so(guarded: Asker) -> None:
    for headers in ({"Authorization": f"Bearer {KEY}x"}, {"X-API-Key": KEY[:-1]}, {"X-API-Key": "\xe9" * 20}):
        encoded = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = guarded.get("/models", headers=encoded)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].endswith('error="invalid_token"')
        assert KEY not in answer.text


@pytest.mark.parametrize("headers", [BEARER, {"X-API-Key": KEY}, {"authorization": f"bearer  {KEY}"}])
def test_a_key_opens_in_either_header(guarded: Asker, headers: dict[str, str]) -> None:
    assert guarded.get("/models", headers=headers).status_code == 200
    assert guarded.post("/detect", content=FRAME, headers=headers).json()["count"] == 1


def test_no_byte_of_a_body_is_read_before_the_key(guarded: Asker) -> None:
    read: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        for chunk in (FRAME[:2880], FRAME[2880:]):
            read.append(chunk)
            yield chunk

    assert guarded.post("/detect", content=body()).status_code == 401
    assert read == []
    assert guarded.post("/detect", content=body(), headers=BEARER).status_code == 200
    assert len(read) == 2


def test_an_error_votable_where_votable_was_asked_for(guarded: Asker) -> None:
    answer = guarded.post("/detect?format=votable")
    assert answer.status_code == 401
    assert b'value="unauthorized"' in answer.content


def test_probes_and_documents_stay_open(guarded: Asker) -> None:
    for path in ("/livez", "/readyz", "/docs", "/openapi.json"):
        assert guarded.get(path).status_code == 200
    assert guarded.get("/nowhere").status_code == 404


def test_the_document_says_which_calls_want_a_key(guarded: Asker) -> None:
    document = guarded.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}
    for method, path in GUARDED:
        operation = document["paths"][path][method.lower()]
        assert operation["security"] == [{"bearer": []}, {"key": []}]
        assert {"401", "429"} <= set(operation["responses"])
        assert "WWW-Authenticate" in operation["responses"]["401"]["headers"]
        assert "Retry-After" in operation["responses"]["429"]["headers"]
    assert "security" not in document["paths"]["/livez"]["get"]


def test_a_key_that_asks_too_often_is_told_when_to_come_back(guarded: Asker) -> None:
    answers = [guarded.get("/models", headers={"X-API-Key": SLOW_KEY}) for _ in range(12)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 2
    assert answers[-1].json()["code"] == "rate_limited"
    assert int(answers[-1].headers["retry-after"]) in (1, 2)
    assert guarded.get("/models", headers=BEARER).status_code == 200  # others go on


def test_refusals_are_counted_by_code_and_no_key_is_named(guarded: Asker) -> None:
    guarded.get("/models", headers={"X-API-Key": "unknown-unknown-unknown"})
    text = guarded.get("/metrics", headers=BEARER).text
    counts = [line for line in text.splitlines() if line.startswith("lynceus_rejected_total")]
    assert any('code="unauthorized"' in line for line in counts)
    assert not [word for word in (KEY, SLOW_KEY, "unknown-unknown", "pipeline") if word in text]


def test_without_keys_everything_is_open() -> None:
    with in_process(create_app(Settings(device="cpu", workers=1), fixed_bundle())) as asker:
        assert asker.get("/models").status_code == 200
        assert asker.get("/models", headers={"X-API-Key": "any"}).status_code == 200
        assert asker.get("/metrics").status_code == 200
        document = asker.get("/openapi.json").json()
        assert "security" not in document["paths"]["/models"]["get"]


def test_metrics_are_open_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"pipeline {KEY}")
    settings = Settings(device="cpu", workers=1, api_keys_file=tmp_path / "keys")
    with in_process(create_app(settings, fixed_bundle())) as asker:
        assert asker.get("/metrics").status_code == 200
        assert asker.get("/models").status_code == 401
        assert asker.get("/models", headers=BEARER).status_code == 200


@pytest.mark.parametrize("keys", ["", "dome short"])
def test_a_bad_file_of_keys_stops_the_start(tmp_path: Path, keys: str) -> None:
    (tmp_path / "keys").write_text(keys)
    with pytest.raises(LynceusError):
        create_app(Settings(device="cpu", api_keys_file=tmp_path / "keys"), fixed_bundle())


async def enter(gate: Gate, key: str) -> Any:
    request: Any = SimpleNamespace(state=SimpleNamespace())
    await gate(request, None, key)
    return request.state.key_name


async def wait_of(gate: Gate, key: str) -> float:
    try:
        await enter(gate, key)
    except RateLimitedError as error:
        return error.retry_after
    return 0.0


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def test_the_name_of_the_key_goes_along_with_the_request() -> None:
    assert run(enter(Gate(Keyring(KEYS)), KEY)) == "pipeline"
    with pytest.raises(UnauthorizedError):
        run(enter(Gate(Keyring(KEYS)), "x" * 20))


def test_a_rate_of_its_own_or_that_of_the_settings() -> None:
    async def scenario() -> None:
        now = [0.0]
        gate = Gate(Keyring(KEYS), rate=6.0, burst=2, clock=lambda: now[0])
        assert [await wait_of(gate, KEY) for _ in range(3)] == [0, 0, 10]
        assert [await wait_of(gate, SLOW_KEY) for _ in range(3)] == [0, 0, 1]
        now[0] = 5.0
        assert await wait_of(gate, KEY) == pytest.approx(5)
        assert [await wait_of(gate, SLOW_KEY) for _ in range(3)] == [0, 0, 1]
        now[0] = 10.0
        assert await wait_of(gate, KEY) == 0

    run(scenario())


def test_old_and_new_key_of_one_holder_share_their_rate() -> None:
    async def scenario() -> None:
        both = read_keys(f"dome {KEY} 60\ndome {SLOW_KEY} 60")
        gate = Gate(Keyring(both), burst=2, clock=lambda: 0.0)
        assert [await wait_of(gate, key) for key in (KEY, SLOW_KEY, KEY)] == [0, 0, 1]

    run(scenario())


@given(
    st.lists(st.floats(0, 30), min_size=1, max_size=60),
    st.floats(0.01, 10),
    st.integers(1, 20),
)
def test_no_more_pass_than_the_burst_and_the_rate(pauses: list[float], rate: float, size: int) -> None:
    bucket, now, passed = Bucket(size), 1000.0, 0
    start = now
    for pause in pauses:
        now += pause
        wait = bucket.take(now, rate)
        passed += wait == 0
        assert passed <= size + (now - start) * rate + 1e-6
        assert wait <= 1 / rate + 1e-6  # and whoever waits as told gets in
        if wait:
            now += wait * 1.000001 + 1e-9
            assert bucket.take(now, rate) == 0
            passed += 1
