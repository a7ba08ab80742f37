"""The training run: Lightning drives, the network and its losses are ours."""

import math
import os
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from lynceus.durable import write_whole
from lynceus.network import Network
from training.errors import TrainingError
from training.fitting.augment import Target
from training.fitting.checkpoints import LAST, WEIGHTS, Figures, Milestones, best_weights, save_weights
from training.fitting.crops import collate
from training.fitting.feed import Feed, open_feed
from training.fitting.loggers import build_loggers
from training.fitting.norms import recompute_statistics
from training.fitting.speed import SpeedGuard
from training.fitting.start import start
from training.fitting.strategies import Strategy
from training.fitting.stream import Batches
from training.fitting.validation import validate
from training.recipe import Recipe, TrainingSpec

SHAPING = "recipe.json"
FLOOR = 0.01  # the learning rate begins and ends at this share of its peak
Batch = tuple[Tensor, list[Target]]
OnValidation = Callable[[int, Figures], None]


def train(recipe: Recipe, run: Path, *, on_validation: OnValidation | None = None) -> Network:
    """Train a network, or go on where an interrupted run stopped.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    run : Path
        Folder of the run: holds the simulated frames if the recipe names such, and a folder with checkpoints, log and
        weights for each phase.
    on_validation : callable or None
        Told the step of the run and the figures (`map_50`, `map_75`, `map`, `loss`) after each look at the validation
        tiles. It may raise, which ends the training; the run can be resumed all the same.

    Returns
    -------
    Network
        With the averaged weights, in evaluation mode.

    Raises
    ------
    TrainingError
        If the run was begun with another recipe, there is nothing to train on, or the loss is no number any more.
    """
    feed = open_feed(recipe, run)
    network = Network(recipe.network)
    for number, how in enumerate(recipe.training, start=1):
        folder = run / f"phase{number}"
        claim(folder, recipe.shaping(number, feed.fingerprint))
        if not (folder / WEIGHTS).exists():
            before = sum(earlier.steps for earlier in recipe.training[: number - 1])
            network = begin(recipe, number, run)
            train_phase(network, feed, recipe, how, folder, _counting_from(before, on_validation))
        network = Network(recipe.network)
        network.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True, map_location="cpu"))
    return network.eval()


def claim(folder: Path, shaping: str) -> None:
    """Write down what shapes a phase; refuse to go on with one that something else shapes."""
    note = folder / SHAPING
    if note.exists() and note.read_text() != shaping:
        raise TrainingError(f"{folder} was begun with another recipe: give that one, or another folder for the run")
    if not note.exists():
        write_whole(note, shaping.encode())


def begin(recipe: Recipe, number: int, run: Path) -> Network:
    """The network before the first step of a phase: as the recipe says, or with the weights of the phase before."""
    seed_all(recipe.training[number - 1].seed)
    network = Network(recipe.network)
    if number > 1:
        network.load_state_dict(torch.load(run / f"phase{number - 1}" / WEIGHTS, weights_only=True, map_location="cpu"))
    elif not (run / "phase1" / LAST).exists():  # a checkpoint holds all weights: what it began from may be gone
        rank_zero_info(start(network, recipe.start))
    return network


def train_phase(
    network: Network,
    feed: Feed,
    recipe: Recipe,
    how: TrainingSpec,
    folder: Path,
    on_validation: OnValidation | None = None,
) -> None:
    """Run one phase from its last checkpoint on, and write its weights."""
    last = folder / LAST
    done = torch.load(last, weights_only=False, map_location="cpu")["global_step"] if last.exists() else 0
    module = NetworkTraining(network, Strategy(recipe.strategy, network), how)

    def look() -> Figures:
        return validate(cast(Network, module.averaged.module), feed.validation(how), how.batch)

    milestones = Milestones(folder, how, look if how.validate_every else None, on_validation)
    trainer = lightning.Trainer(
        max_steps=how.steps,
        accelerator="auto",
        precision=how.precision,
        gradient_clip_val=how.gradient_clip or None,
        accumulate_grad_batches=how.accumulate,
        callbacks=[StepBar(how, folder.name), milestones, SpeedGuard(how.workers)],
        logger=build_loggers(how.loggers, folder, f"{recipe.name} {folder.name}", done),
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **processes(recipe),
    )
    items = feed.items(how)
    batches = Batches(how.batch, done * how.accumulate, trainer.global_rank, trainer.world_size)
    loader = DataLoader(
        items,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=how.workers,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="fork" if how.workers else None,
    )
    trainer.fit(module, loader, ckpt_path=str(last) if done else None)
    if trainer.is_global_zero:
        fresh = Batches(how.batch, how.steps * how.accumulate)
        tiles = (collate([items[item] for item in batch])[0] for batch in fresh)
        save_weights(finish(module, folder, tiles).state_dict(), folder / WEIGHTS)
    trainer.strategy.barrier()


def finish(module: "NetworkTraining", folder: Path, tiles: Iterator[Tensor]) -> Network:
    """The averaged network of a phase, of the best look where there was one, with plain weights and its statistics."""
    averaged, how = cast(Network, module.averaged.module), module.how
    if how.validate_every:
        averaged.load_state_dict(torch.load(best_weights(folder, "map_50"), weights_only=True, map_location="cpu"))
    module.strategy_at_work.at_step(how.steps - 1, how.steps)
    for mean, weight in zip(averaged.parameters(), module.network.parameters(), strict=True):
        mean.requires_grad_(weight.requires_grad)  # says which norms have learned
    network = module.strategy_at_work.finished(averaged)
    if how.statistics:
        recompute_statistics(network, islice(tiles, how.statistics))
    return network


class NetworkTraining(lightning.LightningModule):
    """One step is: losses of both stages, AdamW, running mean of the weights.

    Whatever chance a step has (which anchors enter the loss) depends on the seed and the step's number alone, so that
    a run resumed is the run uninterrupted.
    """

    def __init__(self, network: Network, strategy: Strategy, how: TrainingSpec) -> None:
        super().__init__()
        self.how, self.strategy_at_work = how, strategy
        self.network = network.to(memory_format=torch.channels_last)
        self.averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(how.ema), use_buffers=True)
        self.averaged.requires_grad_(False)  # else processes that train together would wait for its gradients
        self._losses: Figures = {}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the chance of this step, and what learns in it."""
        seed_all(self.how.seed, self.global_step, batch_idx % self.how.accumulate, self.global_rank)
        self.network.train()
        self.strategy_at_work.at_step(self.global_step, self.how.steps)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The sum of the four losses."""
        tiles, targets = batch
        losses = self.network.losses(tiles.contiguous(memory_format=torch.channels_last), targets)
        total = torch.stack(list(losses.values())).sum()
        self._losses = {**{name: float(loss.detach()) for name, loss in losses.items()}, "loss": float(total.detach())}
        if not math.isfinite(self._losses["loss"]):
            raise TrainingError(
                f"the loss is {self._losses['loss']} at step {self.global_step}, with a learning rate of "
                f"{self.learning_rate:.3g}: lower `learning_rate`, or lengthen `warm_up`"
            )
        self.log("loss", total, prog_bar=True, logger=False, batch_size=len(tiles))
        return total

    def figures(self) -> Figures:
        """Losses of the last batch, and the learning rate."""
        return {**self._losses, "learning_rate": self.learning_rate}

    @property
    def learning_rate(self) -> float:
        """Of the last step."""
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then fold the new weights into their running mean, before any checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        self.averaged.update_parameters(self.network)

    def configure_optimizers(self) -> dict[str, object]:
        """AdamW under a warm-up and a cosine."""
        how = self.how
        optimizer = torch.optim.AdamW(
            self.strategy_at_work.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: pace(step, how))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def pace(step: int, how: TrainingSpec) -> float:
    """The learning rate at a step, over its peak: a linear rise over the warm-up, then half a cosine."""
    if step < how.warm_up:
        return FLOOR + (1 - FLOOR) * step / how.warm_up
    done = min((step - how.warm_up) / max(how.steps - how.warm_up, 1), 1.0)
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2


def seed_all(*key: int) -> None:
    """Seed every generator that torch and torchvision draw from."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def processes(recipe: Recipe) -> dict[str, Any]:
    """Arguments of the trainer: one device, or all the processes that `torchrun` started."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return {"devices": 1}
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    changing = recipe.strategy.train == "dynamic"  # what learns changes while it trains
    strategy = "ddp_find_unused_parameters_true" if changing else "ddp"
    return {"devices": local, "num_nodes": world // local, "strategy": strategy}


def _counting_from(before: int, on_validation: OnValidation | None) -> OnValidation | None:
    return on_validation and (lambda step, figures: on_validation(before + step, figures))


class StepBar(RichProgressBar):
    """A progress bar that knows how many batches an endless stream is asked for, and of which phase."""

    def __init__(self, how: TrainingSpec, phase: str) -> None:
        super().__init__(refresh_rate=10)
        self._batches, self._phase = how.steps * how.accumulate, phase

    @property
    def total_train_batches(self) -> int:
        """Of the phase."""
        return self._batches

    def _get_train_description(self, _: int) -> str:
        return self._phase  # a phase is one epoch without end, which is no number worth showing
