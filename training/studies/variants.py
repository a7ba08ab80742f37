"""The studies: what each of them changes in a recipe, and what it asks by that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lynceus.merge import Suppression
from lynceus.network import RESNET50_V2, NetworkSpec
from training.errors import TrainingError
from training.fitting.start import StartSpec
from training.fitting.strategies import StrategySpec
from training.recipe import Recipe
from training.tiling.tileset import TileSetSpec

NMS_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
AMOUNTS = (1.0, 0.5, 0.25, 0.125)
BODIES = ("resnet18", "resnet34", "resnet50", "resnet101")
LEFT_OUT = 0.3  # the share of a made archive's rows that are flagged, or missing


@dataclass(frozen=True)
class Variant:
    """One way to do it: a recipe, and the tiles it is trained on.

    Attributes
    ----------
    name : str
        In tables.
    recipe : Recipe
        What is trained; its seeds and its tile set are filled in by the study.
    tiles : TileSetSpec
        How the data set is cut and labelled.
    served : Recipe or None
        How the weights are used when they are scored; None for as they were trained. Variants that differ in nothing
        else share their weights.
    amount : float
        Share of the frames to train on that are used.
    """

    name: str
    recipe: Recipe
    tiles: TileSetSpec
    served: Recipe | None = None
    amount: float = 1.0


Variants = tuple[Variant, ...]


@dataclass(frozen=True)
class Study:
    """A question, and the variants that answer it; the others are compared with the first one.

    Attributes
    ----------
    name : str
        Of the command.
    question : str
        In a sentence.
    variants : callable
        Makes them of a recipe and of the way tiles are cut.
    archive : mapping
        Options of an archive made for it (see `training.scenes.archive.ArchiveSpec`); none for a study of any data set.
    """

    name: str
    question: str
    variants: Callable[[Recipe, TileSetSpec], Variants]
    archive: Mapping[str, Any]


def study_of(name: str) -> Study:
    """The study of that name.

    Raises
    ------
    TrainingError
        If there is none.
    """
    if name not in STUDIES:
        raise TrainingError(f"there is no study {name!r}; there are {', '.join(sorted(STUDIES))}")
    return STUDIES[name]


def flagged(recipe: Recipe, tiles: TileSetSpec) -> Variants:
    """Rows with a FLAGS bit dropped, as the ancestor did, or ignored."""
    # Unlisted candidates stay out of both: they would bring back what is dropped here.
    return (
        Variant("dropped", recipe, _labelled(tiles, flagged="drop", unlisted=False)),
        Variant("ignored", recipe, _labelled(tiles, flagged="ignore", unlisted=False)),
    )


def missing(recipe: Recipe, tiles: TileSetSpec) -> Variants:
    """What the catalogue lacks taught as background, or ignored where `sep` sees something."""
    return (
        Variant("background", recipe, _labelled(tiles, unlisted=False)),
        Variant("ignored", recipe, _labelled(tiles, unlisted=True)),
    )


def pretrained(recipe: Recipe, tiles: TileSetSpec) -> Variants:
    """From random weights, or from those that the recipe names; COCO's where it names none."""
    start = recipe.start
    if start.source == "random":
        if recipe.network.body == "compact":
            raise TrainingError("no weights are published for a compact body: the recipe's [start] must name some")
        start = start.model_copy(update={"source": "coco"})
    return (
        Variant("random weights", _with(recipe, start=StartSpec()), tiles),
        Variant(f"from {start.source}", _with(recipe, start=start), tiles),
    )


def freezing(recipe: Recipe, tiles: TileSetSpec) -> Variants:
    """All weights trained, or some of them."""
    ways = {"all": "all layers", "partial": "partly frozen", "dynamic": "thawed in steps", "lora": "LoRA"}
    return tuple(
        Variant(name, _with(recipe, strategy=_strategy(recipe.strategy, train=train)), tiles)
        for train, name in ways.items()
    )


def body(recipe: Recipe, tiles: TileSetSpec) -> Variants:
    """The recipe's network, and ResNets of four depths under one head."""
    others = [_network(recipe, RESNET50_V2, body=name) for name in BODIES]
    networks = {network.body: network for network in (recipe.network, *others)}
    return tuple(Variant(name, _with(recipe, network=network), tiles) for name, network in networks.items())


def version(recipe: Recipe, tiles: TileSetSpec) -> Variants:
    """`fasterrcnn_resnet50_fpn` against its second version."""
    from lynceus.network import RESNET50_V1

    return (
        Variant("v1", _with(recipe, network=_network(recipe, RESNET50_V1)), tiles),
        Variant("v2", _with(recipe, network=_network(recipe, RESNET50_V2)), tiles),
    )


def nms(recipe: Recipe, tiles: TileSetSpec) -> Variants:
    """One network served with five thresholds of suppression by IoU."""
    return tuple(
        Variant(f"{threshold:g}", recipe, tiles, served=_suppressed(recipe, threshold)) for threshold in NMS_THRESHOLDS
    )


def tile(recipe: Recipe, tiles: TileSetSpec) -> Variants:
    """Tiles as they are cut, and crops out of larger ones; as many pixels a step for all."""
    whole, half = tiles.size, tiles.size // 2
    crops = recipe.training[0]
    larger = max(crops.batch * half**2 // whole**2, 1)
    return (
        Variant(f"crops of {half} px", _trained(recipe, crop=half), _cut(tiles, size=whole)),
        Variant(f"tiles of {half} px", _trained(recipe, crop=half), _cut(tiles, size=half)),
        Variant(f"tiles of {whole} px", _trained(recipe, crop=whole, batch=larger), _cut(tiles, size=whole)),
        Variant(
            f"crops of {half} px, tiles at random",
            _trained(recipe, crop=half),
            _cut(tiles, size=whole, placing="random"),
        ),
    )


def amount(recipe: Recipe, tiles: TileSetSpec) -> Variants:
    """All frames, half of them, a quarter, an eighth; the steps stay as many."""
    return tuple(Variant(f"{share:.3g} of the frames", recipe, tiles, amount=share) for share in AMOUNTS)


def norm(recipe: Recipe, tiles: TileSetSpec) -> Variants:
    """The three kinds of norm layers."""
    kinds = {"batch": "batch norm", "frozen": "frozen batch norm", "group": "group norm"}
    return tuple(
        Variant(name, _with(recipe, network=_network(recipe, norm=kind)), tiles) for kind, name in kinds.items()
    )


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study("flagged", "Are flagged rows better ignored than dropped?", flagged, {"flagged": LEFT_OUT}),
        Study("missing", "Is what a catalogue lacks better ignored than background?", missing, {"missing": LEFT_OUT}),
        Study("pretrained", "Does it help to start from trained weights?", pretrained, {}),
        Study("freezing", "Which layers should be trained?", freezing, {}),
        Study("body", "How deep must the body be?", body, {}),
        Study("version", "Is the second version of the network better?", version, {}),
        Study("nms", "At which overlap are two detections one?", nms, {}),
        Study("tile", "How large should tiles be, and should they be cropped?", tile, {}),
        Study("amount", "How much data does it take?", amount, {}),
        Study("norm", "Which norm layers?", norm, {}),
    )
}


def _with(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with some of its parts exchanged, validated again."""
    return Recipe.model_validate({**dict(recipe), **changes})


def _trained(recipe: Recipe, **changes: Any) -> Recipe:
    return _with(recipe, training=tuple(how.model_copy(update=changes) for how in recipe.training))


def _network(recipe: Recipe, base: NetworkSpec | None = None, **changes: Any) -> NetworkSpec:
    """A network for the recipe's tiles and classes."""
    own = recipe.network
    kept = {} if base is None else {"classes": own.classes, "channels": own.channels, "sampling": own.sampling}
    return NetworkSpec.model_validate({**dict(base or own), **kept, **changes})


def _strategy(strategy: StrategySpec, **changes: Any) -> StrategySpec:
    return StrategySpec.model_validate({**dict(strategy), **changes})


def _suppressed(recipe: Recipe, threshold: float) -> Recipe:
    """Suppression by IoU in the tiles and between them."""
    rule = Suppression(by="iou", threshold=threshold)
    return _with(recipe, network=_network(recipe, detection_suppression=rule), merge=rule)


def _cut(tiles: TileSetSpec, **changes: Any) -> TileSetSpec:
    return TileSetSpec.model_validate({**dict(tiles), **changes})


def _labelled(tiles: TileSetSpec, **changes: Any) -> TileSetSpec:
    return _cut(tiles, truth=tiles.truth.model_validate({**dict(tiles.truth), **changes}))
