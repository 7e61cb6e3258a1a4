"""`python -m prism.cli` is the `prism` command."""

from prism.cli import app

app(prog_name="prism")
