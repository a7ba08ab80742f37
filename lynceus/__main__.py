"""`python -m lynceus` is the command `lynceus`."""

from lynceus.cli import app

app(prog_name="lynceus")
