"""Start the service: `python -m service --port 3000`."""

import os
import ssl
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import typer


def main(
    port: Annotated[int, typer.Option(help="where to listen")] = 3000,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    tls_cert: Annotated[Path | None, typer.Option(help="certificate chain, PEM; with --tls-key")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="its key, PEM, without a password")] = None,
) -> None:
    """Run BentoML's server in place of this process, until it is interrupted."""
    tls = tls_options(tls_cert, tls_key)
    os.environ.setdefault("BENTOML_HOME", mkdtemp(prefix="lynceus-"))  # shared, it would mix two servers' state
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle workers must not spin on the cores of busy ones
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # each thread's own arena would keep a frame's worth of memory
    command = [sys.executable, "-m", "bentoml", "serve", "service.bento:Lynceus", "--port", str(port), "--host", host]
    os.execv(command[0], command + tls)


def tls_options(cert: Path | None, key: Path | None) -> list[str]:
    """BentoML's options for TLS.

    Raises
    ------
    typer.BadParameter
        If the files are no pair: a server that cannot load them would only be respawned for ever.
    """
    if cert is None and key is None:
        return []
    if cert is None or key is None:
        raise typer.BadParameter("--tls-cert and --tls-key come together")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, _no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise typer.BadParameter(f"--tls-cert {cert} and --tls-key {key} cannot be used: {error}") from None
    return ["--ssl-certfile", str(cert), "--ssl-keyfile", str(key)]


def _no_password() -> str:
    """Keep OpenSSL from asking on the terminal."""
    raise ValueError("the key has a password")


if __name__ == "__main__":
    typer.run(main)
