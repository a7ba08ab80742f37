"""The shipped weights with a coarse pass and a look for trails: the manifest says so, and the service serves it."""

import asyncio
import json
import shutil

import httpx
import numpy as np
import pytest

from lynceus.bundle import Bundle, load_bundle
from lynceus.sums import SUMS, seal
from model_store import default_bundle
from service.app import create_app
from service.served import tried
from service.settings import Settings
from tests.fakes import fits_bytes

SIDE, NOISE = 600, 10.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("store") / "compact" / "9.9.9"
    shutil.copytree(default_bundle(), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["version"] = "9.9.9"
    manifest["detector"] |= {"coarse": 4, "trails": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / SUMS).unlink()
    seal(folder)
    return tried(load_bundle(folder))


def frame() -> bytes:
    """A galaxy in a box of 120 px, a trail, and stars."""
    rng = np.random.default_rng(4)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    pixels = rng.normal(1000, NOISE, (SIDE, SIDE))
    pixels += 150 * np.exp(-4 * np.log(2) * ((columns - 400) ** 2 + (rows - 250) ** 2) / 48**2)
    pixels += 80 * np.exp(-((0.8 * columns - 0.6 * rows + 90) ** 2) / 4)
    for x, y in rng.uniform(20, SIDE - 20, (40, 2)):
        pixels += 600 * np.exp(-4 * np.log(2) * ((columns - x) ** 2 + (rows - y) ** 2) / 9)
    return fits_bytes(pixels.astype(np.float32))


def test_a_bundle_with_both_is_served(bundle: Bundle) -> None:
    app = create_app(Settings(device="cpu", canary_shadow=0), bundle)

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=120) as client:
                return await client.post("/detect", content=frame()), await client.get("/metrics")

    answer, metrics = asyncio.run(ask())
    body = answer.json()
    assert answer.status_code == 200
    assert [warning for warning in body["warnings"] if "a trail crosses the frame" in warning]
    boxes = np.array([row["box"] for row in body["detections"]])
    large = boxes[(boxes[:, 2:] - boxes[:, :2]).max(axis=1) > 64]
    assert len(large) == 1
    np.testing.assert_allclose((large[0, :2] + large[0, 2:]) / 2, [400.5, 250.5], atol=12)
    tiles = next(line for line in metrics.text.splitlines() if line.startswith("lynceus_tiles_total"))
    assert float(tiles.split()[-1]) == 5  # four of the frame, one of it binned
