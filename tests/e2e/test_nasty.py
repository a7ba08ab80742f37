"""Files that a server must survive: every answer is in the table, the memory stays what it is."""

import time
from pathlib import Path

import httpx
import pytest

from service.tidy import EVERY
from tests.data import ROOT

TABLE = Path(__file__).with_name("nasty.tsv")
ROUNDS = 5
SLOW = 10.0  # seconds; what takes longer (4096 px of 8-bit stars on no sky) is asked in the first round alone
GROWTH = 80e6  # bytes; the heap keeps a little, while a tile leaked with every answer would be over 200 MB

pytestmark = pytest.mark.skipif(not (ROOT / "nasty").exists(), reason=f"no test data at {ROOT / 'nasty'}")


def expected() -> dict[str, tuple[int, str]]:
    """The table: file, status, code (`ok` for an answer)."""
    rows = [line.split("\t") for line in TABLE.read_text().splitlines()]
    return {name: (int(status), code) for name, status, code in rows}


def files() -> list[Path]:
    return sorted(path for path in (ROOT / "nasty").rglob("*") if path.is_file())


def answer(client: httpx.Client, path: Path) -> tuple[int, str]:
    reply = client.post("/detect", content=path.read_bytes())
    body = reply.json()
    if reply.status_code == 200:
        assert body["count"] == len(body["detections"])
        return 200, "ok"
    assert reply.headers["content-type"].startswith("application/problem+json")
    assert body["status"] == reply.status_code
    assert str(path.parent) not in reply.text
    assert "Traceback" not in reply.text
    return reply.status_code, body["code"]


def resident(client: httpx.Client) -> float:
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("lynceus_process_resident_bytes"):
            return float(line.split()[-1])
    raise AssertionError("the metrics do not tell the memory")


@pytest.mark.timeout(900)
def test_every_file_has_its_answer_and_nothing_grows(address):
    table, sizes, asked = expected(), [], files()
    assert len(table) == len(asked)
    with httpx.Client(base_url=address, timeout=280) as client:
        for _ in range(ROUNDS):
            quick = []
            for path in asked:
                name = path.relative_to(ROOT / "nasty").as_posix()
                start = time.monotonic()
                assert (name, *answer(client, path)) == (name, *table[name])
                quick += [path] if time.monotonic() - start < SLOW else []
            asked = quick
            time.sleep(EVERY + 1)  # until the server has tidied up after the round
            sizes.append(resident(client))
    assert sizes[-1] - sizes[1] < GROWTH, sizes
