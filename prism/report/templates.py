"""The HTML pages' templates. Whatever a page prints is escaped, and what is invisible in a text is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prism.untrusted import visible

if TYPE_CHECKING:
    from jinja2 import Template

FOLDER = Path(__file__).parent


def template(name: str) -> Template:
    """A template of this folder; a value that it lacks is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(name)


def _visible(value: Any) -> Any:
    """Escape invisible characters in every text that a template prints, but not in Markup (our SVG and macros)."""
    return visible(value) if type(value) is str else value
