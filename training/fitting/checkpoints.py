"""What a phase keeps on disk, when, and when it ends: checkpoints, looks at the validation tiles, early stopping.

A killed run loses nothing but time: every file appears whole or not at all, and what a checkpoint does not hold (the
tiles of a batch, the chance of a step) depends on the seed and the step's number alone.
"""

import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer

from lynceus.durable import sync, write_whole
from training.recipe import TrainingSpec

LAST = "last.ckpt"
BEST = "best.json"
WEIGHTS = "weights.pt"
LOG_EVERY = 20  # steps
SIGNS = {"map_50": 1.0, "loss": -1.0}  # the metrics whose best weights are kept, and which way is better
Figures = dict[str, float]


class Milestones(Callback):
    """Looks at the validation tiles, keeps the best weights and the last state, and stops early.

    Parameters
    ----------
    folder : Path
        Of the phase.
    how : TrainingSpec
        Says when.
    look : callable or None
        Figures of the averaged network; None where the phase is not validated.
    on_validation : callable or None
        Told the step and its figures; it may raise, to end the training.
    """

    def __init__(
        self,
        folder: Path,
        how: TrainingSpec,
        look: Callable[[], Figures] | None,
        on_validation: Callable[[int, Figures], None] | None = None,
    ) -> None:
        self.folder, self.how, self.look, self.on_validation = folder, how, look, on_validation
        self.best: dict[str, dict[str, float]] = {}  # metric -> its value, and the step
        self.poorer = 0  # looks since the best map_50
        self._step = 0

    def state_dict(self) -> dict[str, Any]:
        """What decides over the rest of the run."""
        return {"best": self.best, "poorer": self.poorer}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.best, self.poorer = state_dict["best"], state_dict["poorer"]

    @property
    def out_of_patience(self) -> bool:
        """Whether the phase is over."""
        return 0 < self.how.patience <= self.poorer

    def on_train_start(self, trainer: Trainer, _: LightningModule) -> None:
        """A run that was killed just after it stopped stays stopped."""
        self._step = trainer.global_step
        trainer.should_stop = trainer.should_stop or self.out_of_patience

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """After each step: log, look, keep."""
        step = trainer.global_step
        if step == self._step:  # this batch was but a part of one
            return
        self._step = step
        at_end = step == self.how.steps
        figures = None
        if step % LOG_EVERY == 0 or at_end:
            _log(trainer, module.figures(), step)  # type: ignore[operator]
        if self.look and (step % self.how.validate_every == 0 or at_end):
            figures = cast(Figures, trainer.strategy.broadcast(self.look() if trainer.is_global_zero else None))
            self._judge(trainer, module, step, figures)
        if step % self.how.save_every == 0 or at_end or self.out_of_patience:
            save_checkpoint(trainer, self.folder / LAST)
        if figures and self.on_validation:
            self.on_validation(step, figures)

    def _judge(self, trainer: Trainer, module: LightningModule, step: int, figures: Figures) -> None:
        _log(trainer, {f"validation/{name}": value for name, value in figures.items()}, step)
        self.poorer += 1
        for metric, sign in SIGNS.items():
            if metric in self.best and sign * figures[metric] <= sign * self.best[metric]["value"]:
                continue
            self.best[metric] = {"value": figures[metric], "step": step}
            self.poorer = 0 if metric == "map_50" else self.poorer
            if trainer.is_global_zero:
                save_weights(module.averaged.module.state_dict(), best_weights(self.folder, metric))  # type: ignore[union-attr]
        if trainer.is_global_zero:
            write_whole(self.folder / BEST, json.dumps(self.best).encode())
        trainer.should_stop = trainer.should_stop or self.out_of_patience


def _log(trainer: Trainer, figures: Figures, step: int) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(figures, step)


def best_weights(folder: Path, metric: str) -> Path:
    """Where a phase keeps the averaged weights that were best in a metric, "map_50" or "loss"."""
    return folder / f"best_{metric}.pt"


def read_best(folder: Path) -> dict[str, dict[str, float]]:
    """The best figures of a phase so far: metric -> `value` and `step`; empty for one that is not validated."""
    path = folder / BEST
    return json.loads(path.read_text()) if path.exists() else {}


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Keep all that the run needs to go on; every process must call it."""
    partial = path.with_suffix(".partial")
    trainer.save_checkpoint(partial)
    if trainer.is_global_zero:
        sync(partial)
        os.replace(partial, path)


def save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write weights, whole or not at all."""
    buffer = BytesIO()
    torch.save(weights, buffer)
    write_whole(path, buffer.getvalue())
