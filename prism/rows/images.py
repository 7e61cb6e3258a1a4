"""The images of an example."""

from __future__ import annotations

from prism.rows import Example
from prism.store import file_digest


def image_digests(example: Example) -> list[str]:
    """SHA-256 of each image's bytes, in order: what every identity that depends on the images holds of them."""
    return [file_digest(image) for image in example.images]
