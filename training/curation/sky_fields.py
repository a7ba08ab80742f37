"""Which frames show the same part of the sky, so that none of it is in training and in test at once."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from lynceus.detections import Floats
from training.curation.inspection import Inspection, Place

# What an OBJECT may say of which many frames of many fields would say it.
NO_TARGET = frozenset(
    ("", "unknown", "none", "null", "nan", "sky", "field", "object", "science", "light", "target", "test", "survey")
)
HALF_SKY = 1e-3  # cosine of the distance from which a corner cannot be projected


def fields_of(inspections: Mapping[str, Inspection], overlap: float) -> dict[str, str]:
    """Find the fields of frames.

    Parameters
    ----------
    inspections : mapping of str to Inspection
        By key.
    overlap : float
        Two frames are of one field if they share more than this part of the smaller one's area on the sky.

    Returns
    -------
    dict of str to str
        The name of the field by key: the commonest OBJECT, or else the first key. Frames that overlap, or share an
        OBJECT, are of one field, also through others; a frame without position and OBJECT is a field of its own.
    """
    keys = list(inspections)
    number = {key: index for index, key in enumerate(keys)}
    links = [(number[one], number[other]) for one, other in _same_target(inspections)]
    links += [(number[one], number[other]) for one, other in _overlapping(inspections, overlap)]
    matrix = coo_matrix((np.ones(len(links)), np.array(links, int).reshape(-1, 2).T), (len(keys), len(keys)))
    _, group = connected_components(matrix, directed=False)
    members: dict[int, list[str]] = defaultdict(list)
    for key, one in zip(keys, group.tolist(), strict=True):
        members[one].append(key)
    names = _named({own[0]: own for own in members.values()}, inspections)
    return {key: names[own[0]] for own in members.values() for key in own}


def plain_target(target: str) -> str:
    """OBJECT without case and blanks; empty where it names nothing."""
    plain = re.sub(r"[\s_-]+", "", target).casefold()
    return "" if plain in NO_TARGET else plain


def shared_area(one: Place, other: Place) -> float:
    """The area that two frames share on the sky, over that of the smaller one, 0..1."""
    first, second = (_projected(place, one) for place in (one, other))
    if first is None or second is None:
        return 0.0
    smaller = min(_area(first), _area(second))
    return float(_area(_clipped(second, first)) / smaller) if smaller > 0 else 0.0


def _same_target(inspections: Mapping[str, Inspection]) -> Iterator[tuple[str, str]]:
    first: dict[str, str] = {}
    for key, one in inspections.items():
        target = plain_target(one.target)
        if target and first.setdefault(target, key) != key:
            yield first[target], key


def _overlapping(inspections: Mapping[str, Inspection], overlap: float) -> Iterator[tuple[str, str]]:
    """Pairs of frames that share enough of the sky."""
    placed = {key: one.place for key, one in inspections.items() if one.place is not None}
    if len(placed) < 2:
        return
    keys = list(placed)
    middles = np.stack([_unit(place.ra, place.dec) for place in placed.values()])
    reach = np.array(
        [max(np.linalg.norm(_unit(*corner) - middle) for corner in place.corners)
         for place, middle in zip(placed.values(), middles, strict=True)]
    )  # fmt: skip
    tree = cKDTree(middles)
    for index, near in enumerate(tree.query_ball_point(middles, reach + reach.max())):
        for other in near:
            if other > index and shared_area(placed[keys[index]], placed[keys[other]]) > overlap:
                yield keys[index], keys[other]


def _unit(ra: float, dec: float) -> Floats:
    longitude, latitude = np.radians(ra), np.radians(dec)
    return np.array(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], np.float64
    )


def _projected(place: Place, about: Place) -> Floats | None:
    """Corners on the plane that touches the sky at the middle of a frame, (4, 2), counter-clockwise."""
    middle = _unit(about.ra, about.dec)
    east = np.array([-np.sin(np.radians(about.ra)), np.cos(np.radians(about.ra)), 0.0])
    north = np.cross(middle, east)
    corners = np.stack([_unit(*corner) for corner in place.corners])
    depth = corners @ middle
    if (depth < HALF_SKY).any():
        return None
    plane = np.stack([corners @ east, corners @ north], axis=1) / depth[:, None]
    return plane if _signed_area(plane) > 0 else plane[::-1]


def _signed_area(polygon: Floats) -> float:
    x, y = polygon.T if len(polygon) else (np.zeros(0), np.zeros(0))
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def _area(polygon: Floats) -> float:
    return abs(_signed_area(polygon))


def _clipped(polygon: Floats, window: Floats) -> Floats:
    """The part of a polygon inside a convex window, both counter-clockwise (Sutherland & Hodgman 1974)."""
    for start, end in zip(window, np.roll(window, -1, axis=0), strict=True):
        along = end - start
        side = along[0] * (polygon[:, 1] - start[1]) - along[1] * (polygon[:, 0] - start[0])
        kept = []
        for index in range(len(polygon)):
            before = index - 1
            if (side[index] >= 0) != (side[before] >= 0):
                share = side[before] / (side[before] - side[index])
                kept.append(polygon[before] + share * (polygon[index] - polygon[before]))
            if side[index] >= 0:
                kept.append(polygon[index])
        polygon = np.array(kept, np.float64).reshape(-1, 2)
        if not len(polygon):
            break
    return polygon


def _named(members: Mapping[str, list[str]], inspections: Mapping[str, Inspection]) -> dict[str, str]:
    """A name for each field by its first key."""
    names: dict[str, str] = {}
    for first, keys in members.items():
        targets = Counter(
            re.sub(r"\s+", "_", inspections[key].target) for key in keys if plain_target(inspections[key].target)
        )
        name = targets.most_common(1)[0][0] if targets else first
        names[first] = name if name not in names.values() else f"{name}-{first}"
    return names
