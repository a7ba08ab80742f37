"""Which output format a request asks for."""

from starlette.requests import Request

from lynceus.catalogue import FORMATS, Format, format_named
from lynceus.errors import FormatError
from service.question import MAX_NAME, accept_quality

VOTABLE = "application/x-votable+xml"


def choose_format(asked: str | None, accept: str | None) -> Format:
    """The format asked for by name or media type, or else the one an Accept header likes best.

    Raises
    ------
    FormatError
        If there is none.
    """
    if asked is not None:
        by_type = [one for one in FORMATS.values() if "/" in asked and accept_quality(asked, one.media_type)]
        return by_type[0] if by_type else format_named(asked)
    best = max(FORMATS.values(), key=lambda one: accept_quality(accept or "*/*", one.media_type))
    if not accept_quality(accept or "*/*", best.media_type):
        raise FormatError(f"no format for Accept: {(accept or '')[:MAX_NAME]!r}; formats are {', '.join(FORMATS)}")
    return best


def wants_votable(request: Request) -> bool:
    """Whether even an error should be a VOTable; the query need not make sense otherwise."""
    query = {name.lower(): value for name, value in request.query_params.items()}
    asked = query.get("format") or query.get("responseformat")
    try:
        return choose_format(asked or None, request.headers.get("accept")).media_type.startswith(VOTABLE)
    except FormatError:
        return False
