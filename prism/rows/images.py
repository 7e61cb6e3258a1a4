"""Images: each is checked before anything is spent, made small once, and known by its bytes.

Training and answering read the same prepared file, so no collator or processor resizes one and not the other.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from prism.errors import DataError
from prism.rows import Example, Row
from prism.spec import Image as Options
from prism.store import digest, digest_once, file_digest, write_bytes

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # Pillow would start Ghostscript for EPS
SMALLEST = 8  # pixels of a side; a thinner image shows nothing
PREPARED = 1  # raise it when the same image and options give other bytes
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]{200,}")
_OTHERS = ((b"%!PS", "EPS"), (b"<svg", "SVG"), (b"<?xml", "SVG or XML"), (b"%PDF", "PDF"))


@dataclass(frozen=True)
class Source:
    """An image that a row names. As text it is the digest of its bytes, so a row keeps its id wherever the file lies."""

    digest: str
    place: str  # for messages
    path: Path | None = None
    content: bytes = b""  # of an image that lies in the row itself

    def __str__(self) -> str:
        return self.digest

    def read(self) -> bytes:
        return self.path.read_bytes() if self.path else self.content


def read_source(value: Any, folder: Path, name: str) -> Source:
    """The image of a row: a path under `folder`, or the {bytes, path} of Parquet. `name` is the row's, for errors.

    Raises DataError for a file that is missing, and for what a library would fetch or look for elsewhere.
    """
    if isinstance(value, dict) and value.get("bytes"):
        data = bytes(value["bytes"])
        return Source(hashlib.sha256(data).hexdigest(), str(value.get("path") or "bytes of the row"), content=data)
    place = value.get("path") if isinstance(value, dict) else value
    if not isinstance(place, str) or not place.strip():
        raise DataError(
            f"{name}: has no image; put rows without images into another spec, or leave them out by [data].where"
        )
    shown = place if len(place) <= 80 else place[:80] + "…"
    if place.startswith("data:") or _BASE64.fullmatch(place):
        raise DataError(
            f"{name}: image {shown!r} is encoded text; write it to a file and name that, or use Parquet's bytes"
        )
    if _SCHEME.match(place):
        raise DataError(f"{name}: image {shown!r} is a URL, which PRISM never fetches; download it and name the file")
    relative = Path(place)
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{name}: image {shown!r} must lie in the rows' folder; name it from there, without '..'")
    places = (folder / relative, folder / "images" / relative)
    path = next((found for found in places if os.path.isfile(found)), None)  # no error for a name that none can have
    if path is None:
        raise DataError(f"{name}: no image {shown!r} in {folder} or its images/; restore the file or delete the row")
    return Source(file_digest(path), shown, path)


def prepare(source: Source, options: Options, folder: Path, name: str) -> Path:
    """The image as models see it, an RGB PNG under `folder`; made once for the same bytes and options.

    Raises DataError, naming the row and the reason, for an image that cannot be used.
    """
    import PIL

    identity = [source.digest, options.model_dump(exclude={"max_megapixels"}), PREPARED, PIL.__version__]
    path = folder / f"{digest(identity)[:32]}.png"
    if not path.is_file():
        opened = _opened(source, options, name)
        try:
            picture = _fitted(opened, options)
        except ValueError:
            raise DataError(
                f"{name}: image {source.place!r} has {opened.width} x {opened.height} pixels, which leave no line of [image] "
                f"size; crop it"
            ) from None
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=1)
        write_bytes(path, buffer.getvalue())
    return path


def _opened(source: Source, options: Options, name: str) -> Any:
    """The image upright and in RGB, composited on the background."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    where, data = f"{name}: image {source.place!r}", source.read()
    if not data:
        raise DataError(f"{where}: the file is empty; restore it or delete the row")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the header's size is checked here
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            _require_size(picture.size, options, where)
            frames = getattr(picture, "n_frames", 1)
            if frames > 1 and options.frames == "refuse":
                raise DataError(f'{where}: has {frames} frames; split the file, or set [image].frames = "first"')
            picture.load()
            return _in_rgb(ImageOps.exif_transpose(picture), options, where)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{where}: {_kind(data)}; convert it to PNG or JPEG") from None
    except Image.DecompressionBombError:
        raise DataError(f"{where}: is larger than [image].max_megapixels; make it smaller, or delete the row") from None
    except Exception as error:  # noqa: BLE001  # a damaged file makes Pillow raise any of a dozen types
        raise DataError(f"{where}: cannot be read ({error}); restore the file or delete the row") from None


def _require_size(size: tuple[int, int], options: Options, where: str) -> None:
    """Checked from the header, before a pixel is decoded."""
    width, height = size
    if width * height > options.max_megapixels * 1e6:
        raise DataError(
            f"{where}: {width:,} × {height:,} pixels are more than [image].max_megapixels = {options.max_megapixels:g}; "
            f"make the image smaller, or raise that limit"
        )
    if min(size) < SMALLEST:
        raise DataError(f"{where}: {width} × {height} pixels show nothing; restore the image or delete the row")


def _kind(data: bytes) -> str:
    """What a file is that is none of FORMATS, in words."""
    if data[128:132] == b"DICM":
        return "is DICOM, not an image"
    start = data[:256].lstrip().lower()
    kind = next((kind for mark, kind in _OTHERS if start.startswith(mark.lower()) or mark in data[:512].lower()), "")
    return f"is {kind}" if kind else f"is none of {', '.join(FORMATS)}"


def _in_rgb(picture: Any, options: Options, where: str) -> Any:
    """Every mode to RGB by rule; libraries clip 16 bits to white without a word."""
    from PIL import Image

    if picture.mode == "F":
        raise DataError(f"{where}: holds floating-point values; convert it to 8 or 16 bits")
    if picture.mode.startswith("I"):
        if options.depth == "refuse":
            raise DataError(f'{where}: has 16 bits a pixel; convert it to 8 bits, or set [image].depth = "scale"')
        picture = _scaled(picture)
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        ground = Image.new("RGBA", layer.size, options.background)
        return Image.alpha_composite(ground, layer).convert("RGB")
    return picture.convert("RGB")


def _scaled(picture: Any) -> Any:
    """16 bits to 8 by the image's own range: a 12-bit radiograph in 16 bits would else be nearly black."""
    import numpy
    from PIL import Image

    values = numpy.asarray(picture, dtype=numpy.float64)
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) * (255 / max(high - low, 1))).round().astype("uint8"), "L")


def _fitted(picture: Any, options: Options) -> Any:
    from PIL import Image, ImageOps

    if options.size is not None:
        size = (options.size, options.size) if isinstance(options.size, int) else options.size
        if options.fit == "stretch":
            return picture.resize(size, Image.Resampling.BICUBIC)
        return ImageOps.pad(picture, size, Image.Resampling.BICUBIC, color=options.background)
    assert options.max_pixels is not None
    width, height = picture.size
    share = (options.max_pixels / (width * height)) ** 0.5
    if share >= 1:
        return picture
    return picture.resize((max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BICUBIC)


def blank(path: Path) -> Path:
    """A picture of one grey, as large as a prepared one, beside it."""
    size = image_size(path)
    found = path.with_name(f"blank-{size[0]}x{size[1]}.png")
    if not found.is_file():
        from PIL import Image

        buffer = io.BytesIO()
        Image.new("RGB", size, (127, 127, 127)).save(buffer, "PNG")
        write_bytes(found, buffer.getvalue())
    return found


def image_digests(example: Example) -> list[str]:
    """SHA-256 of the bytes of each image, in order, for identities that depend on images."""
    return [digest_once(image) for image in example.images]


@lru_cache(1 << 16)
def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of a prepared image, whose name changes with its content."""
    from PIL import Image

    with Image.open(path) as picture:
        return picture.size


def read_sources(rows: Sequence[Row], columns: Sequence[str], folder: Path, place: str) -> list[Row]:
    """The rows with the images of these columns found; a file that several rows name is read once.

    `place` names the rows' source in errors.
    """
    if not columns:
        return list(rows)
    known: dict[str, Source] = {}
    found = []
    for number, row in enumerate(rows, start=1):
        sources: dict[str, Source] = {}
        for column in columns:
            value = row.get(column)
            if isinstance(value, str) and value in known:
                sources[column] = known[value]
                continue
            sources[column] = read_source(value, folder, f"{place}, row {number}")
            if isinstance(value, str):
                known[value] = sources[column]
        found.append({**row, **sources})
    return found
