"""The training run: Lightning drives, the network and its losses are ours."""

from pathlib import Path
from typing import cast

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from rich.progress import track
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from lynceus.network import Network
from training.recipe import Recipe, TrainingSpec
from training.tiles import LabelledFrame, RandomTiles, Target, collate, read_labelled

WEIGHTS = "weights.pt"


def train(recipe: Recipe, run: Path) -> Network:
    """Train a network, or go on where an interrupted run stopped.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    run : Path
        Folder of the run: holds the simulated frames, and a folder with checkpoint, log and weights for each phase.

    Returns
    -------
    Network
        With the averaged weights, in evaluation mode.
    """
    lightning.seed_everything(recipe.training[0].seed)
    network = Network(recipe.network)
    frames: list[LabelledFrame] = []
    for number, how in enumerate(recipe.training, start=1):
        folder = run / f"phase{number}"
        if not (folder / WEIGHTS).exists():
            frames = frames or read_frames(recipe, run)
            torch.save(train_phase(network, frames, recipe, how, folder).state_dict(), folder / WEIGHTS)
        network.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
    return network.eval()


def train_phase(
    network: Network, frames: list[LabelledFrame], recipe: Recipe, how: TrainingSpec, folder: Path
) -> Network:
    """Run one phase from its last checkpoint on, and return the averaged network."""
    last = folder / "last.ckpt"
    module = NetworkTraining(network, how)
    start = torch.load(last, weights_only=False)["global_step"] if last.exists() else 0
    trainer = lightning.Trainer(
        max_steps=how.steps,
        accelerator="auto",
        devices=1,
        gradient_clip_val=5.0,
        log_every_n_steps=20,
        callbacks=[ModelCheckpoint(folder, filename="last", every_n_train_steps=200, enable_version_counter=False)],
        logger=CSVLogger(folder, name="", version=""),
    )
    tiles = RandomTiles(frames, how.crop, recipe.normalise, how.seed, start * how.batch)
    loader = DataLoader(tiles, batch_size=how.batch, collate_fn=collate)
    trainer.fit(module, loader, ckpt_path=str(last) if start else None)
    return cast(Network, module.averaged.module)


def read_frames(recipe: Recipe, run: Path) -> list[LabelledFrame]:
    """All training frames, in memory."""
    paths = sorted((run / recipe.train_set.folder).glob("*.fits"))
    return [read_labelled(path, recipe.sky) for path in track(paths, description="reading frames")]


class NetworkTraining(lightning.LightningModule):
    """One step is: losses of both stages, AdamW, running mean of the weights."""

    def __init__(self, network: Network, how: TrainingSpec) -> None:
        super().__init__()
        self.how = how
        self.network = network.to(memory_format=torch.channels_last)
        self.averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(self.how.ema), use_buffers=True)

    def training_step(self, batch: tuple[Tensor, list[Target]], _: int) -> Tensor:
        """The sum of the four losses."""
        tiles, targets = batch
        losses = self.network.losses(tiles.contiguous(memory_format=torch.channels_last), targets)
        total = torch.stack(list(losses.values())).sum()
        self.log_dict({**losses, "loss": total}, prog_bar=True, batch_size=len(tiles))
        return total

    def on_train_batch_end(self, *_: object) -> None:
        """Fold the new weights into the running mean."""
        self.averaged.update_parameters(self.network)

    def configure_optimizers(self) -> dict[str, object]:
        """AdamW under a warm-up and a cosine."""
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.how.learning_rate, weight_decay=self.how.weight_decay
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule(optimizer, self.how), "interval": "step"},
        }


def schedule(optimizer: torch.optim.Optimizer, how: TrainingSpec) -> torch.optim.lr_scheduler.LRScheduler:
    """A linear rise over the warm-up, then half a cosine to a hundredth of the peak."""
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, how.warm_up)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.steps - how.warm_up, how.learning_rate / 100)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [how.warm_up])
