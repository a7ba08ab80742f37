import pytest
from PIL import Image

from tests.bench.charts import draw
from tests.bench.curves import Point, fitted
from tests.bench.growth import figures

SIDES = (512, 1024, 2048, 4096)


def points(exponent):
    """Time and memory that grow so fast, on top of what the process held before."""
    megapixels = [side**2 / 1e6 for side in SIDES]
    return [Point(x, [x**exponent, 1.01 * x**exponent], [2 * x], base=400, peak=400 + 20 * x) for x in megapixels]


def test_a_curve_knows_its_exponents():
    curve = fitted("pixels", "million pixels", points(1.5), ["wall", "memory"])
    assert set(curve.exponents) == {"wall", "memory"}
    assert curve.exponents["wall"].value == pytest.approx(1.5, abs=0.01)
    assert curve.exponents["memory"].value == pytest.approx(1)


@pytest.mark.parametrize(("exponent", "verdict"), [(1.0, "kept"), (1.5, "short")])
def test_time_and_memory_are_to_be_linear_in_pixels(exponent, verdict):
    curve = fitted("pixels", "million pixels", points(exponent), ["wall"])
    found = {figure.name: figure for figure in figures(curve)}
    grown = found["pixels: exponent of wall"]
    assert grown.verdict == verdict
    assert grown.interval[0] <= grown.median <= grown.interval[1]


@pytest.mark.parametrize("name", ["pixels", "clients"])
def test_a_curve_is_drawn(tmp_path, name):
    taken = ["wall", "cpu", "memory"] if name == "pixels" else ["wall"]
    path = tmp_path / "growth.png"
    draw(fitted(name, "along", points(1.0), taken), path)
    with Image.open(path) as picture:
        assert picture.width > 2 * picture.height > 0
    assert path.stat().st_size < 100_000
