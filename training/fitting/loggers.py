"""Where the figures of a run go: a CSV file always, other loggers by choice."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astropy.table import Table
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from training.errors import TrainingError
from training.recipe import LoggerName

LOG = "metrics.csv"
COLUMNS = ("step", "name", "value")


class CsvLog(Logger):
    """A long table on disk, a figure a row: `step, name, value`.

    Lightning's own CSV logger begins its file anew when a run is resumed; this one goes on in it. Rows past the step
    that the run is resumed at are dropped, since they will come again.

    Parameters
    ----------
    path : Path
        Of the file.
    step : int
        The last step that is done.
    """

    def __init__(self, path: Path, step: int) -> None:
        super().__init__()
        self.path = path
        self._begin(step)

    @rank_zero_only
    def _begin(self, step: int) -> None:
        rows = [row for row in read_rows(self.path) if row[0] <= step]
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        os.replace(partial, self.path)

    @property
    def name(self) -> str:
        """Of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """There is one."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row for each figure."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows((step, name, repr(float(value))) for name, value in metrics.items())

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """What shaped the run is in its `recipe.json`."""


def read_rows(path: Path) -> list[tuple[int, str, float]]:
    """Rows of a CSV log; none where there is no file. A line that a crash cut short is left out."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [(int(row[0]), row[1], float(row[2])) for row in list(csv.reader(file))[1:] if len(row) == len(COLUMNS)]


def read_log(folder: Path) -> Table:
    """The figures of a phase, as a table of `step`, `name` and `value`.

    Parameters
    ----------
    folder : Path
        Of the phase, such as `run/phase1`.
    """
    return Table(rows=read_rows(folder / LOG), names=COLUMNS, dtype=(int, str, float))


def build_loggers(names: Sequence[LoggerName], folder: Path, title: str, step: int) -> list[Logger]:
    """The CSV log and those asked for.

    Parameters
    ----------
    names : sequence of {"tensorboard", "wandb", "mlflow"}
        W&B works offline unless the environment's `WANDB_MODE` says otherwise, MLflow in a file of the folder unless
        `MLFLOW_TRACKING_URI` does.
    folder : Path
        Of the phase.
    title : str
        What the run is called there.
    step : int
        The last step that is done.

    Raises
    ------
    TrainingError
        If one is not installed.
    """
    return [CsvLog(folder / LOG, step), *(_build(name, folder, title) for name in dict.fromkeys(names))]


def _build(name: LoggerName, folder: Path, title: str) -> Logger:
    try:
        if name == "tensorboard":
            return TensorBoardLogger(folder, name="", version="tensorboard")
        if name == "wandb":
            offline = os.environ.get("WANDB_MODE", "offline") == "offline"
            return WandbLogger(name=title, save_dir=folder, project="lynceus", offline=offline)
        store = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{(folder / 'mlflow.db').resolve()}")
        return MLFlowLogger("lynceus", run_name=title, tracking_uri=store)
    except ModuleNotFoundError as error:
        raise TrainingError(f"the logger {name} is not installed: pip install 'lynceus[loggers]' ({error})") from error
