"""`python -m prism` is the `prism` command."""

from prism.cli import app

app(prog_name="prism")
