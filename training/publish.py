"""From averaged weights to a bundle: choose the threshold, score, write the card."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from lynceus import __version__
from lynceus.bundle import Manifest, Provenance, save_bundle
from lynceus.detector import Detector, DetectorSpec
from lynceus.network import Network
from training.evaluate import best_threshold, evaluate, evaluate_rival, read_scenes, search, tune_rival
from training.recipe import Recipe
from training.rival import RivalSettings

PLACES = 4


def publish(recipe: Recipe, run: Path, store: Path, bundle_version: str, workers: int) -> Path:
    """Choose `min_score` on the tuning frames, score on the validation frames, save the version.

    Parameters
    ----------
    recipe : Recipe
        The one the weights were trained by.
    run : Path
        Holds `weights.pt` and the simulated frames.
    store : Path
        Folder of bundles.
    bundle_version : str
        Of the new version.
    workers : int
        Threads.

    Returns
    -------
    Path
        Of the new version.
    """
    network = Network(recipe.network).eval()
    network.load_state_dict(torch.load(run / "weights.pt", weights_only=True))
    spec = DetectorSpec(sky=recipe.sky, normalise=recipe.normalise, tile=recipe.tile, merge=recipe.merge)
    tuning = read_scenes(run / recipe.tuning_set.folder, recipe.sky)
    min_score, _ = best_threshold(search(Detector(network, spec, workers=workers), tuning), tuning)
    spec = spec.model_copy(update={"min_score": min_score})
    report = score(Detector(network, spec, workers=workers), recipe, run)
    manifest = Manifest(
        name=recipe.name,
        version=bundle_version,
        network=recipe.network,
        detector=spec,
        weights_sha256="",
        provenance=provenance(recipe),
        scores={name: report["detector"][name] for name in ("ap50", "f1", "reliability", "completeness")},
    )
    save_bundle(store, network, manifest, report, card(manifest, report))
    return store / recipe.name / bundle_version


def score(detector: Detector, recipe: Recipe, run: Path) -> dict[str, Any]:
    """Figures of a detector and of its rival on the validation frames; both were tuned on the tuning frames."""
    validation = read_scenes(run / recipe.validation_set.folder, recipe.sky)
    settings = tuned_rival(recipe, run)
    report = {
        "detector": evaluate(detector, validation, detector.spec.min_score),
        "rival": evaluate_rival(validation, settings),
    }
    return {who: _rounded(figures) for who, figures in report.items()}


def tuned_rival(recipe: Recipe, run: Path) -> RivalSettings:
    """The rival's best settings on the tuning frames; minutes of work, so they are kept in the run's folder."""
    kept = run / "rival.json"
    if not kept.exists():
        settings, _ = tune_rival(read_scenes(run / recipe.tuning_set.folder, recipe.sky))
        kept.write_text(settings.model_dump_json())
    return RivalSettings.model_validate_json(kept.read_text())


def provenance(recipe: Recipe) -> Provenance:
    """The fingerprint of simulated data is that of the ranges and seeds that made them."""
    sets = recipe.train_set.model_dump_json() + recipe.tuning_set.model_dump_json()
    return Provenance(
        data_fingerprint=hashlib.sha256(sets.encode()).hexdigest(),
        seed=recipe.training[0].seed,
        code_version=__version__,
    )


def card(manifest: Manifest, report: dict[str, Any]) -> str:
    """What a person should know before using the version, as Markdown."""
    detector = report["detector"]
    return (
        f"# {manifest.name} {manifest.version}\n\n"
        f"Finds {', '.join(manifest.network.classes)} in single-channel frames. Trained on simulated frames alone.\n\n"
        f"Default threshold {manifest.detector.min_score}. A box is {manifest.detector.measure.box_scale} times the "
        f"observed FWHM on a side, at least {manifest.detector.measure.min_box} px.\n\n"
        f"On {detector['frames']} simulated frames it was not trained on ({detector['sources']} sources of SNR 5 or "
        f"more, with cosmic rays, hot pixels, trails and gradients):\n\n{table(report)}\n"
        "Known limits: objects larger than 64 px may be found in parts; never trained on real frames.\n"
    )


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    ours, theirs = report["detector"], report["rival"]
    rows = [("AP50", ours["ap50"], "-")]
    rows += [(name, ours[key], theirs[key]) for name, key in (("F1", "f1"), ("reliability", "reliability"))]
    rows += [("completeness", ours["completeness"], theirs["completeness"])]
    rows += [
        (f"completeness, SNR {name}", share, theirs["completeness_by_snr"][name])
        for name, share in ours["completeness_by_snr"].items()
    ]
    rows += [(f"AP50, SNR {name}", figure, "-") for name, figure in ours["ap50_by_snr"].items()]
    lines = [f"| {name} | {_cell(left)} | {_cell(right)} |" for name, left, right in rows]
    return "\n".join(["| | this version | `sep`, tuned |", "|---|---|---|", *lines]) + "\n"


def _cell(figure: float | str) -> str:
    return figure if isinstance(figure, str) else f"{figure:.3f}"


def _rounded(figures: Any) -> Any:
    if isinstance(figures, dict):
        return {name: _rounded(figure) for name, figure in figures.items()}
    return round(figures, PLACES) if isinstance(figures, float) else figures
