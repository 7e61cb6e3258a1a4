"""The `prism` command: everything that does not run through pytest."""

from prism.cli import (
    listing,
    measuring,
    runs,
    sharing,
    showing,
    starting,
    storing,
)  # their commands add themselves to the app
from prism.cli.app import app

__all__ = ["app", "listing", "measuring", "runs", "sharing", "showing", "starting", "storing"]
