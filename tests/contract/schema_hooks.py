"""What schemathesis cannot know of our files: beside the text it makes up, it sends FITS that can be read."""

import schemathesis
from hypothesis import strategies as st

from tests.fakes import fits_bytes, star_field

FRAME = fits_bytes(star_field((32, 48), [(20, 16)]))
FILES = {"frame": FRAME, "mask": FRAME, "weight": FRAME, "catalogue": b"x,y\n20,16\n", "detections": b"x,y\n20,16\n"}
BODIES = st.sampled_from([FRAME, b"SIMPLE  =                    T", FRAME[:3000], b"", b"\0"])
NAMES = ("hdu", "model", "format")  # of something: made up, it is not there

schemathesis.openapi.media_type("application/fits", BODIES)
schemathesis.openapi.media_type("application/octet-stream", BODIES)


@schemathesis.hook
def flatmap_body(context: schemathesis.HookContext, body: object) -> st.SearchStrategy[object]:
    """A form as it was made up, or with files that can be read; one that is made to be refused stays as it is."""
    if not isinstance(body, dict) or not all(name in FILES and isinstance(part, str) for name, part in body.items()):
        return st.just(body)
    return st.sampled_from([body, {name: FILES[name] for name in body}])


@schemathesis.hook
def flatmap_query(context: schemathesis.HookContext, query: object) -> st.SearchStrategy[object]:
    """A query as it was made up, or without names of what is not there."""
    if not isinstance(query, dict):
        return st.just(query)
    return st.sampled_from([query, {name: value for name, value in query.items() if name not in NAMES}])
