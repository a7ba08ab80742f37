"""Part `stages`: where the time of a frame goes, from bytes to bytes, in one thread."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from lynceus.catalogue import FORMATS, Block, ModelInfo
from lynceus.detector import Detector
from lynceus.frame import read_frame
from lynceus.measure import measure, summarise
from tests.bench.bench import Bench
from tests.bench.figures import Figure
from tests.bench.frames import encodings
from tests.bench.rounds import Contender, Times, interleave
from tests.bench.spans import REST, Spans, watched

STAGES: Mapping[str, Sequence[str]] = {
    "sky map": ("lynceus.detector:estimate_sky",),
    "trails": ("lynceus.detector:find_trails",),
    "tiles, cut": ("lynceus.detector:cut_tiles", "lynceus.detector:enlarged", "lynceus.detector:binned"),
    "tiles, normalised": ("lynceus.detector:stack_tiles", "lynceus.detector:normalise"),
    "body and pyramid": ("network:backbone.forward", "network:dense"),
    "proposals, head": ("network:rpn.head.forward",),
    "proposals, decoding and NMS": ("network:rpn.propose", "network:rpn.select"),
    "RoIAlign": ("network:roi_heads.box_roi_pool.forward",),
    "box head": ("network:roi_heads.box_head.forward", "network:roi_heads.box_predictor.forward"),
    "detections, decoding and NMS": ("network:roi_heads.postprocess_detections",),
    "merge": ("lynceus.detector:merge_tiles", "lynceus.detector:merge_passes", "lynceus.detector:steady_sizes"),
    "judge": ("lynceus.detector:judge", "lynceus.detector:leave_out"),
    "measure": ("tests.bench.stages:measure",),
}
FORMATS_TIMED = ("json", "votable", "csv", "fits", "ecsv")
ROWS = (3000, 50_000)


@dataclass(frozen=True)
class Walk:
    """One way of a frame through the detector, and what it left to be written."""

    spans: Spans
    block: Block


def run(bench: Bench) -> list[Figure]:
    """Time every stage, each round one way of the frame through the detector, the decoders and the formats."""
    detector = bench.load(workers=1)
    walks: list[Walk] = []
    with one_thread():
        block = walk(detector, bench.frame).block
        contenders = {
            f"decode {kind}": Contender(partial(read_frame, data)) for kind, data in encodings(bench.frame).items()
        }
        contenders["the way"] = Contender(lambda: walks.append(walk(detector, bench.frame)))
        for rows in ROWS:
            resized = with_rows(block, rows)
            contenders |= {
                f"{name}, {rows} sources": Contender(partial(FORMATS[name].write, [resized])) for name in FORMATS_TIMED
            }
        times = interleave(contenders, bench.rounds, bench.console)
    way = times.pop("the way")
    return figures(times, [one.spans for one in walks[1:]], way)


def figures(times: Mapping[str, Times], walks: Sequence[Spans], way: Times) -> list[Figure]:
    """Decoders, then the stages in their order, then the formats; in milliseconds."""
    stages: dict[str, Times] = defaultdict(Times)
    for stage in (*STAGES, REST):
        for spans in walks:
            if stage in spans.wall:
                stages[stage].wall.append(spans.wall[stage])
                stages[stage].cpu.append(spans.cpu[stage])
    decoders = {name: took for name, took in times.items() if name.startswith("decode")}
    formats = {name: took for name, took in times.items() if name not in decoders}
    ordered = {**decoders, **stages, "all of the above, float32": way, **formats}
    return [_milliseconds(name, took) for name, took in ordered.items()]


def walk(detector: Detector, data: bytes) -> Walk:
    """Send a frame the whole way in this thread, each stage timed."""
    spans = Spans(torch.cuda.synchronize if detector.device.type == "cuda" else lambda: None)
    frame = read_frame(data)
    with watched(spans, STAGES, detector.network), spans.span(REST):
        cut = detector.cut(frame)
        found = detector.join(cut, detector.run(cut.all_tiles))
        kept = found[found.scores >= detector.spec.min_score]
        sources = measure(frame, kept, cut.sky, detector.spec.measure)
        summary = summarise(frame, sources, cut.sky, detector.spec.measure)
    return Walk(spans, Block(frame, sources, summary, ModelInfo("compact", "0", "stable", "0" * 64)))


def with_rows(block: Block, rows: int) -> Block:
    """The block with so many sources: its own, over and over."""
    again = np.resize(np.arange(len(block.sources)), rows)
    return Block(block.frame, block.sources[again], block.summary, block.model)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread, so that times add up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _milliseconds(name: str, took: Times) -> Figure:
    return Figure(name, "ms", tuple(1e3 * one for one in took.wall), tuple(1e3 * one for one in took.cpu))
