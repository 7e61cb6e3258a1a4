"""The `prism` command: everything that does not run through pytest."""

from prism.cli import measuring, runs, starting  # their commands add themselves to the app
from prism.cli.app import app

__all__ = ["app", "measuring", "runs", "starting"]
