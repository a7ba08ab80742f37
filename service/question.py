"""What a request asks: the query by any spelling of its names, and the format by every way to ask for one."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import QueryParams

from lynceus.truth import IGNORE_FLAGS
from service.refusals import BadParameterError

ALIASES = {"responseformat": "format", "maxrec": "max_detections"}
MAX_NAME = 40  # characters of a caller's text that are repeated to him
MAX_WARNINGS = 10


class Asked(BaseModel):
    """What any question about a frame may say."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    hdu: str | None = Field(
        None, description="Index (0 is the primary HDU) or EXTNAME of the frame, or `all`; by default the first frame."
    )
    min_score: float | None = Field(
        None, ge=0, le=1, description="Lowest score returned; by default the threshold the version was published with."
    )
    model: str | None = Field(
        None,
        description="A track (`stable`, `canary`), a version, or `name/version`; by default stable, or canary for the "
        "share of frames it is given.",
    )
    deadline: float | None = Field(None, gt=0, description="Seconds from the request's arrival; 504 past it.")
    priority: Literal["live", "backfill"] = Field("live", description="Backfill takes what live frames leave.")


class Question(Asked):
    """The query parameters of `/detect`; the descriptions are those of the OpenAPI page."""

    format: str | None = Field(
        None,
        description="Output format; also as `RESPONSEFORMAT`, by name or media type, or by the `Accept` header.",
        examples=["votable"],
    )
    max_detections: int | None = Field(
        None, ge=0, description="Most detections returned a frame, the best first; also as `MAXREC`."
    )
    measure: bool = Field(True, description="Measure flux, FWHM and shape of every detection.")

    @property
    def work(self) -> tuple[object, ...]:
        """What of it shapes the work; two requests that agree here, in their files and version, are one."""
        return self.hdu, self.min_score, self.max_detections, self.measure, self.priority


class EvaluateQuestion(Asked):
    """The query parameters of `/evaluate`."""

    format: Literal["json", "html"] = Field("json", description="Figures as JSON, or a page with the overlay.")
    box_rule: Literal["bundle", "catalogue"] = Field(
        "bundle",
        description="Boxes of the catalogue's sources: by the version's rule from their FWHM or shape, or the "
        "catalogue's own (XMIN..XMAX, Kron ellipses, the Joan Oro rule).",
    )
    ignore_flags: int = Field(
        IGNORE_FLAGS, ge=0, description="Rows with one of these bits in FLAGS count neither way: SExtractor's numbers."
    )
    unlisted: bool = Field(
        True, description="Peaks that the frame shows and the catalogue lacks count neither way: catalogues have gaps."
    )


Q = TypeVar("Q", bound=Asked)


def read_question(params: QueryParams, kind: type[Q]) -> tuple[Q, tuple[str, ...]]:
    """Read a query whose names may be in any case.

    Parameters
    ----------
    params : QueryParams
        As they came.
    kind : type
        What is asked: `Question` or `EvaluateQuestion`.

    Returns
    -------
    Asked
        Of that kind, checked.
    tuple of str
        A warning for every name that means nothing.

    Raises
    ------
    BadParameterError
        Naming the parameter.
    """
    values: dict[str, str] = {}
    aliased: dict[str, str] = {}
    warnings: list[str] = []
    for spelled, value in params.multi_items():
        name = spelled.lower()
        chosen = aliased if name in ALIASES else values
        name = ALIASES.get(name, name)
        if name not in kind.model_fields:
            warnings.append(f"unknown parameter {spelled[:MAX_NAME]!r} was ignored")
        elif name in chosen:
            raise BadParameterError(f"parameter {spelled!r} is given twice")
        elif value:
            chosen[name] = value
    try:
        return kind.model_validate(aliased | values), tuple(warnings[:MAX_WARNINGS])
    except ValidationError as error:
        raise BadParameterError(_first_problem(error)) from None


def accept_quality(accept: str, media_type: str) -> float:
    """How welcome a media type is to an Accept header, 0 for not at all; the most specific range counts."""
    ranges = _accept_ranges(accept)
    media_type = media_type.partition(";")[0].strip().lower()
    for candidate in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        if candidate in ranges:
            return ranges[candidate]
    return 0.0


def openapi_parameters(kind: type[Asked]) -> list[dict[str, Any]]:
    """The query parameters as OpenAPI describes them."""
    properties: Mapping[str, Any] = kind.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.get("description", ""),
            "schema": {key: value for key, value in schema.items() if key not in ("description", "title")},
        }
        for name, schema in properties.items()
    ]


def _accept_ranges(accept: str) -> dict[str, float]:
    ranges: dict[str, float] = {}
    for entry in accept.lower().split(","):
        media, *parameters = (part.strip() for part in entry.split(";"))
        weight = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        try:
            ranges[media] = float(weight)
        except ValueError:
            ranges[media] = 0.0
    return ranges


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"parameter {problem['loc'][0]!r}: {message}, not {str(problem['input'])[:MAX_NAME]!r}"
