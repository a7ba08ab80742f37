"""The offline commands: simulate, train, publish, evaluate."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from model_store import BUNDLES, DEFAULT
from training.recipe import read_recipe

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
Recipe = Annotated[Path, typer.Argument(help="TOML recipe", exists=True, dir_okay=False)]
Run = Annotated[Path, typer.Option(help="folder of the run: simulated frames, checkpoints, logs")]
RUNS = Path("runs/default")


@app.command()
def simulate(recipe: Recipe, run: Run = RUNS, workers: int = 2) -> None:
    """Draw the recipe's training, tuning and validation frames; those already there are kept."""
    from training.simulate import simulate as draw

    what = read_recipe(recipe)
    for scenes in (what.train_set, what.tuning_set, what.validation_set):
        draw(run / scenes.folder, scenes.count, scenes.seed, scenes.scene, workers)


@app.command()
def train(recipe: Recipe, run: Run = RUNS, threads: int = 0) -> None:
    """Train on the simulated frames; an interrupted run goes on from its last checkpoint."""
    from training.train import train as fit

    if threads:
        torch.set_num_threads(threads)
    network = fit(read_recipe(recipe), run)
    torch.save(network.state_dict(), run / "weights.pt")
    typer.echo(f"averaged weights are in {run / 'weights.pt'}")


@app.command()
def publish(recipe: Recipe, run: Run = RUNS, store: Path = BUNDLES, version: str = "0.1.0", workers: int = 2) -> None:
    """Choose the threshold, score on the validation frames, and save the bundle."""
    from training.publish import publish as save

    typer.echo(f"published {save(read_recipe(recipe), run, store, version, workers)}")


@app.command()
def evaluate(recipe: Recipe, run: Run = RUNS, bundle: Path = DEFAULT, workers: int = 2) -> None:
    """Score a bundle on the recipe's validation frames, beside the tuned rival, as a Markdown table."""
    from lynceus.bundle import load_bundle
    from training.publish import score, table

    typer.echo(table(score(load_bundle(bundle, workers=workers).detector, read_recipe(recipe), run)))


if __name__ == "__main__":
    app()
