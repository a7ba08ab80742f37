import httpx
import pytest

from tests.data import STAR_FREE, real_frame, test_data

# name -> least and most sources that a person would find plausible on it
SCIENCE = {
    "kids_viking/r": (1500, 8000),
    "eso_ntt_emmi/galaxies": (200, 1500),
    "panoptes/unsolved": (50, 4000),
    "panoptes/solved": (50, 4000),
    "huntsman/science_0": (50, 2000),
    "phosim_decam/img_r": (1, 3000),
}


def detect(address: str, data: bytes, **query: object) -> dict:
    reply = httpx.post(f"{address}/detect", params=query, content=data, timeout=300)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("name", SCIENCE)
def test_science_frames_have_their_sources(address, name):
    answer = detect(address, real_frame(name))
    least, most = SCIENCE[name]
    assert least <= answer["count"] <= most
    assert len(answer["detections"]) == answer["count"]


@pytest.mark.parametrize("name", STAR_FREE)
def test_frames_without_stars_have_hardly_any(address, name):
    assert detect(address, real_frame(name))["count"] < 10


def test_a_mosaic_gives_a_block_for_each_amplifier(address):
    answer = detect(address, real_frame("lco_sinistro_raw_mef/mef_raw_test_frame"), hdu="all")
    assert [block["frame"]["hdu"] for block in answer["frames"]] == [1, 2, 3, 4]


def test_positions_agree_with_a_solved_header(address):
    answer = detect(address, real_frame("panoptes/solved"))
    assert all(row["ra"] is not None for row in answer["detections"])
    assert answer["frame"]["pixel_scale_arcsec"] == pytest.approx(10.3, abs=0.3)


def test_a_tile_compressed_frame_gives_the_same_sources(address):
    plain = detect(address, real_frame("panoptes/solved"))
    packed = detect(address, test_data("frames/panoptes/solved.fits.fz").read_bytes())
    assert packed["count"] == plain["count"]


def test_the_brightest_sources_of_the_official_catalogue_are_found(address):
    """SExtractor's own test frame with SExtractor's own catalogue (1-based positions)."""
    folder = test_data("catalogues/eso_ntt_emmi")
    from astropy.table import Table

    official = Table.read(folder / "image.cat", format="ascii.sextractor")
    bright = official[official["FLUX_AUTO"] > 20 * official["FLUXERR_AUTO"]]
    answer = detect(address, (folder / "image.fits").read_bytes())
    found = [(row["x"] + 1, row["y"] + 1) for row in answer["detections"]]
    near = [min((x - row["X_IMAGE"]) ** 2 + (y - row["Y_IMAGE"]) ** 2 for x, y in found) < 9 for row in bright]
    assert sum(near) >= 0.9 * len(bright)
