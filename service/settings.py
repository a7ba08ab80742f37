"""What the server may use and where it finds its bundle: `LYNCEUS_*` in the environment."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from lynceus.reading import Keywords, Limits
from model_store import BUNDLES
from service.keys import Key, read_keys

UPLOAD_MARGIN = 30.0  # seconds an answer may take to be written after the longest deadline


def _lower(given: object) -> object:
    """A word by its small letters."""
    return given.lower() if isinstance(given, str) else given


def _keys(given: object) -> object:
    """Keys as they are spelled in the environment; nothing but their hashes is kept."""
    if not isinstance(given, str):
        return given
    return read_keys(given) if given.strip() else ()


class Settings(BaseSettings):
    """Every setting of the service; none shapes what is found, which the bundle does.

    A name such as `PORT` or `SERVICE_HOST` must never be used here: Kubernetes sets `LYNCEUS_PORT`
    and the like for a Service named `lynceus`. For the same reason unknown names are ignored.
    """

    model_config = SettingsConfigDict(
        env_prefix="LYNCEUS_", env_nested_delimiter="__", frozen=True, hide_input_in_errors=True
    )

    bundle: Path | None = Field(
        None, description="Folder of one bundle to serve, and nothing else; by default the store's tracks say what."
    )
    store: str = Field(
        str(BUNDLES), description="Where the versions are: a folder or `s3://bucket/prefix`; by default those shipped."
    )
    stable: str = Field("stable", description="The track that is served, or a version `name/version`.")
    canary: str = Field("canary", description="The track that is tried out beside it, or a version `name/version`.")
    track: Literal["stable", "canary"] = Field(
        "stable",
        description="What this server is: `canary` serves what `LYNCEUS_CANARY` names, and nothing beside it, and "
        "says so in answers and metrics.",
    )
    track_poll: PositiveFloat = Field(1.0, description="How often the tracks are looked at, in seconds.")
    cache: Path | None = Field(
        None, description="Folder for versions fetched from S3; by default one in the user's cache folder."
    )
    s3_endpoint: str | None = Field(None, description="URL of an S3 server other than AWS, as MinIO or Ceph.")
    s3_region: str | None = Field(None, description="Region of the S3 server.")
    canary_traffic: float = Field(
        0.0, ge=0, le=1, description="Share of the frames that the canary answers; the same frame is always with it."
    )
    canary_shadow: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of stable's frames that the canary looks at too, once the answer is sent, to be compared.",
    )
    canary_budget: float = Field(
        0.25, gt=0, le=1, description="Share of the time that this may take; frames past it are left out."
    )
    canary_journal: Path | None = Field(None, description="File that each comparison is written to, a line of JSON.")
    canary_journal_bytes: PositiveInt = Field(
        64 * 1024**2, description="Most that the journal may hold; the oldest half goes when it is full."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Where the network runs; `auto` takes a GPU if there is one, `cuda` refuses to start without one.",
    )
    workers: int = Field(
        0, ge=0, description="What runs the network on a CPU at once; 0 for one a core. A GPU always has one."
    )
    network: Literal["auto", "threads", "processes"] = Field(
        "auto",
        description="What the workers are: `processes` of their own, which take half a GB and more each, or "
        "`threads` of the server, which wait for its other work; `auto` takes processes on a CPU. On a GPU there are "
        "threads alone.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Format of the network's products; `auto` takes bfloat16 where the device is faster with it. "
        "The same frame gives the same list to the last digit only where this is the same.",
    )
    keywords: Keywords = Field(
        Keywords(),
        description="Header keywords each fact is read from, e.g. `LYNCEUS_KEYWORDS__GAIN='[\"MYGAIN\"]'`.",
    )
    limits: Limits = Field(
        Limits(),
        description="What one file may cost when it is read, e.g. `LYNCEUS_LIMITS__PIXELS`: `bytes` (after "
        "decompression), `pixels`, `header_cards`, `hdus`.",
    )
    max_upload_bytes: PositiveInt = Field(1024**3, description="Largest request body: all parts together.")
    max_uploads: PositiveInt = Field(
        32, description="Requests that may be uploading or waiting to be decoded at once; 503 past it."
    )
    max_decodes: PositiveInt = Field(2, description="Frames decoded and cut into tiles at once.")
    max_queue_tiles: PositiveInt = Field(
        2048,
        description="Tiles that may wait for the network; 503 past it. A tile of 512 px holds 1 MiB. A frame with "
        "more tiles is admitted when nothing waits.",
    )
    max_batch_tiles: int = Field(
        0, ge=0, description="Tiles the network takes at once; 0 for what suits the device (1 on a CPU, 32 on a GPU)."
    )
    max_window: float = Field(
        0.005, ge=0, description="Longest wait for tiles of other frames to fill a batch, in seconds."
    )
    default_deadline: PositiveFloat = Field(
        120.0, description="Time for an answer where the request names none, in seconds, upload included."
    )
    longest_deadline: PositiveFloat = Field(
        600.0, description="Longest deadline that a request may ask for, in seconds."
    )
    upload_timeout: PositiveFloat = Field(120.0, description="Time an upload may take, in seconds; 408 past it.")
    header_timeout: PositiveFloat = Field(
        10.0, description="Time for the header of a request, in seconds; the connection is closed past it."
    )
    disk_reserve: int = Field(
        64 * 1024**2,
        ge=0,
        description="Bytes that stay free where uploads are stored (`TMPDIR`); 503 where one would take them.",
    )
    stuck_seconds: PositiveFloat = Field(
        120.0,
        description="When a batch that runs for so long is taken for stuck, in seconds: liveness fails, and the "
        "process exits with status 70.",
    )
    max_detections: PositiveInt = Field(
        100_000, description="Detections returned a frame where the request names no lower number."
    )
    latency_buckets: tuple[PositiveFloat, ...] = Field(
        (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120),
        description="Bucket bounds of `lynceus_frame_duration_seconds`, in seconds; put some at the exposure cadence.",
    )

    api_keys: Annotated[tuple[Key, ...], NoDecode, BeforeValidator(_keys)] = Field(
        (),
        exclude=True,
        description="API keys, one a line or separated by `;`: name, key or `sha256:` and its sha256, and perhaps "
        "requests a minute. With none here nor in the file, the server asks for no key.",
    )
    api_keys_file: Path | None = Field(
        None, description="File with more of them, re-read when it changes; `#` begins a comment."
    )
    api_key_rate: float = Field(
        0.0, ge=0, description="Requests a minute of a key that names no rate, in each server; 429 past it, 0 for any."
    )
    api_key_burst: PositiveInt = Field(10, description="Requests of a key that may come at once within its rate.")
    metrics_key: bool = Field(False, description="Whether `/metrics` asks for a key too; probes never do.")

    @property
    def main_name(self) -> str:
        """The track or version that answers whoever asks for nothing else."""
        return self.stable if self.track == "stable" else self.canary

    @property
    def other_name(self) -> str:
        """The track or version that is tried out beside it; empty for none."""
        return self.canary if self.track == "stable" else ""

    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="Form of the log: `json`, `text`, or `auto`: text on a terminal, JSON everywhere else."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "info", description="From which level on lines are logged; at `debug` probes and scrapes have lines too."
    )
    gpu_poll: PositiveFloat = Field(5.0, description="How often the GPUs are asked how they are, in seconds.")

    @property
    def request_timeout(self) -> float:
        """When even a request that ignores its deadline is cut off, in seconds."""
        return self.longest_deadline + UPLOAD_MARGIN

    @property
    def cores(self) -> int:
        """Workers for a network on a CPU."""
        return self.workers or len(os.sched_getaffinity(0))
