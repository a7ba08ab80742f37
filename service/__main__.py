"""Start the service: `python -m service --port 3000`."""

import os
import sys
from tempfile import mkdtemp
from typing import Annotated

import typer


def main(
    port: Annotated[int, typer.Option(help="where to listen")] = 3000,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
) -> None:
    """Run BentoML's server in place of this process, until it is interrupted."""
    os.environ.setdefault("BENTOML_HOME", mkdtemp(prefix="lynceus-"))  # shared, it would mix two servers' state
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle workers must not spin on the cores of busy ones
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # each thread's own arena would keep a frame's worth of memory
    command = [sys.executable, "-m", "bentoml", "serve", "service.bento:Lynceus", "--port", str(port), "--host", host]
    os.execv(command[0], command)


if __name__ == "__main__":
    typer.run(main)
