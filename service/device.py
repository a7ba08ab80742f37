"""Where the network runs."""

from typing import Literal

import torch

from lynceus.errors import LynceusError
from service.settings import Settings


def chosen_device(settings: Settings) -> torch.device:
    """Where the network shall run.

    Raises
    ------
    LynceusError
        If a GPU is asked for and there is none: a silent fall back to the CPU would only show in the latency.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise LynceusError("LYNCEUS_DEVICE=cuda, but torch finds no GPU")
    return torch.device(asked_device(settings))


def asked_device(settings: Settings) -> Literal["cpu", "cuda"]:
    """The kind of device that is asked for, whether it is there or not."""
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return settings.device
