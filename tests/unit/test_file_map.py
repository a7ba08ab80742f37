"""Files mapped into memory: the same bytes, the same frames, and no second copy of them."""

import gzip
import hashlib
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pytest
from astropy.io import fits

from lynceus.errors import LynceusError
from lynceus.file_map import FileBytes, FileMap, map_file, sha256_of
from lynceus.frame import read_frame, read_frames, read_plane
from service.upload import Part

SIDE = 300  # pixels: rows of a length that no page's is a multiple of


def mapped(data: bytes) -> FileBytes:
    with TemporaryFile() as file:
        file.write(data)
        file.flush()
        return map_file(file)


def written(*hdus: fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU) -> bytes:
    file = BytesIO()
    fits.HDUList(list(hdus)).writeto(file)
    return file.getvalue()


def plane(dtype: str) -> np.ndarray:
    return np.random.default_rng(1).normal(1000, 30, (SIDE, SIDE)).astype(dtype)


FILES = {
    "float32": written(fits.PrimaryHDU(plane("f4"))),
    "uint16": written(fits.PrimaryHDU(plane("u2"))),
    "int64": written(fits.PrimaryHDU(plane("i8"))),
    "mosaic": written(fits.PrimaryHDU(), fits.ImageHDU(plane("f4")), fits.ImageHDU(plane("i2"))),
    "tiles": written(fits.PrimaryHDU(), fits.CompImageHDU(plane("i4"))),
    "gzip": gzip.compress(written(fits.PrimaryHDU(plane("f4")))),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_mapped_file_is_read_as_its_bytes_are_and_again(kind, monkeypatch):
    monkeypatch.setattr("lynceus.fits_pixels.STRIP", 2000)  # several strips, and pages given back between them
    data, file = FILES[kind], mapped(FILES[kind])
    assert isinstance(file, FileMap)
    expected = read_frames(data)
    for _ in range(2):
        for one, other in zip(read_frames(file), expected, strict=True):
            np.testing.assert_array_equal(one.pixels, other.pixels)
            assert one.sha256 == other.sha256 == hashlib.sha256(data).hexdigest()
    np.testing.assert_array_equal(read_plane(file, (SIDE, SIDE)), read_plane(data, (SIDE, SIDE)))
    assert file[:] == data


@pytest.mark.parametrize("cut", [0, 1, 100, 2880, 5000, 200_000])
def test_a_mapped_file_that_is_cut_short_fails_as_its_bytes_do(cut):
    data = FILES["float32"][:cut]
    with pytest.raises(LynceusError) as of_bytes:
        read_frame(data)
    with pytest.raises(LynceusError) as of_map:
        read_frame(mapped(data))
    assert (type(of_map.value), str(of_map.value)) == (type(of_bytes.value), str(of_bytes.value))


def test_what_cannot_be_mapped_is_read(tmp_path):
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as file:
        assert map_file(file) == b""


def test_hashing_forgets_what_was_hashed_and_nothing_is_lost():
    data = np.random.default_rng(2).bytes((1 << 24) + 12_345)
    file = mapped(data)
    assert sha256_of(file) == sha256_of(data) == hashlib.sha256(data).hexdigest()
    assert file[:] == data


def test_a_part_of_an_upload_can_be_read_once_it_is_closed():
    part = Part("frame")
    part.write(FILES["uint16"])
    part.end()
    file = part.map()
    part.close()
    assert file[:] == FILES["uint16"]
    np.testing.assert_array_equal(read_frame(file).pixels, read_frame(FILES["uint16"]).pixels)


MEMORY = """
import sys
from pathlib import Path
import numpy as np
import lynceus.measure
from lynceus.detections import Detections, box_about
from lynceus.file_map import map_file
from lynceus.frame import read_frame
from lynceus.measure import MeasureSpec, measure, summarise
from lynceus.sky import SkySpec, estimate_sky

lynceus.measure.WHOLE = 0  # as of a frame that is larger still

def kilobytes(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(name + ":"))

def look(path):
    with open(path, "rb") as file:
        frame = read_frame(map_file(file))
    decoded, sky = kilobytes("VmHWM"), estimate_sky(frame, SkySpec())
    side = frame.shape[0]
    x, y = np.random.default_rng(0).uniform(0, side, (2, 200))
    boxes = box_about(x, y, *np.full((2, 200), 8.0)).astype(np.float32)
    sources = measure(frame, Detections(boxes, np.ones(200, np.float32), np.zeros(200, np.int64)), sky, MeasureSpec())
    summarise(frame, sources, sky, MeasureSpec())
    return decoded, kilobytes("VmHWM")

look(sys.argv[1])
before = kilobytes("VmRSS")
print(before, *look(sys.argv[2]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's account of memory is Linux's")
def test_a_large_frame_takes_little_more_memory_than_its_pixels(tmp_path):
    sides = {"small": 256, "large": 8192}
    for name, side in sides.items():
        pixels = np.tile(np.random.default_rng(4).normal(500, 10, (256, 256)).astype(">f4"), (side // 256, side // 256))
        fits.PrimaryHDU(pixels).writeto(tmp_path / f"{name}.fits")
    command = [sys.executable, "-c", MEMORY, *(str(tmp_path / f"{name}.fits") for name in sides)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    before, decoded, measured = map(int, told.stdout.split())
    frame = 4 * sides["large"] ** 2 / 1024
    assert decoded - before < 1.25 * frame  # 2.05 with a copy of the file
    assert measured - before < 2.0 * frame  # 3.3 with planes as large as the frame
