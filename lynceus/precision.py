"""Which number format the arithmetic of a network uses."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]

_exact: ContextVar[bool] = ContextVar("exact", default=False)


def chosen_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The format of convolutions and dense layers on a device.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16"}
        `auto` is bfloat16 where the device multiplies it faster than float32.
    device : torch.device
        Where the network runs.
    """
    if precision == "auto":
        return torch.bfloat16 if _is_fast(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def lowered(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """A context in which convolutions and dense layers calculate in `dtype`; no other than ever with float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32 and not _exact.get())


@contextmanager
def exactly(exact: bool = True) -> Iterator[None]:
    """A context in which nothing is lowered."""
    token = _exact.set(exact)
    try:
        yield
    finally:
        _exact.reset(token)


def _is_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
