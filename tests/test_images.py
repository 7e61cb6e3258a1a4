"""Images as people have them: read right, or refused in one sentence that names the row, before anything is spent."""

import base64
import io
import struct
import zlib

import numpy
import pytest
from PIL import Image

from prism.errors import DataError, SpecError
from prism.rows.examples import load_examples
from prism.rows.images import blank, prepare, read_source
from prism.rows.splits import row_id
from prism.spec import Image as Options
from prism.tasks import load_task
from prism.tasks.check import load_checked_spec
from tests.conftest import SPEC, write_rows, write_spec

SQUARE = Options(size=32)


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def prepared(tmp_path, content, options=SQUARE, name="a.png"):
    (tmp_path / name).write_bytes(content)
    path = prepare(read_source(name, tmp_path, "row 1"), options, tmp_path / "store", "sample abc")
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return numpy.asarray(picture)


def gradient(size=(64, 64)):
    return Image.linear_gradient("L").resize(size).convert("RGB")


def frames(kind):
    return encoded(gradient(), kind, save_all=True, append_images=[Image.new("RGB", (64, 64), "red")])


def bomb(side):
    """A PNG whose header says how large it is, and that holds no pixel."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


REFUSED = {
    "truncated": (encoded(gradient())[:-60], "cannot be read"),
    "zero bytes": (b"", "the file is empty"),
    "text": (b"this is no picture at all", "is none of PNG, JPEG"),
    "DICOM": (b"\0" * 128 + b"DICM" + b"\0" * 64, "is DICOM"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is SVG"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is EPS"),
    "PDF": (b"%PDF-1.4\n", "is PDF"),
    "16 bits": (encoded(Image.fromarray(numpy.full((16, 16), 700, "uint16"))), "has 16 bits a pixel"),
    "float": (encoded(Image.fromarray(numpy.zeros((16, 16), "float32")), "TIFF"), "floating-point"),
    "animated": (frames("GIF"), "has 2 frames"),
    "pages": (frames("TIFF"), "has 2 frames"),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), "1 × 1 pixels show nothing"),
    "a line": (encoded(Image.new("RGB", (1, 300))), "1 × 300 pixels show nothing"),
    "large": (bomb(12_000), "12,000 × 12,000 pixels are more than [image].max_megapixels = 50"),
    "bomb": (bomb(20_000), "is larger than [image].max_megapixels"),
}


@pytest.mark.parametrize(("content", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_usable_image_is_refused_with_its_sample(tmp_path, content, sentence):
    with pytest.raises(DataError) as error:
        prepared(tmp_path, content, name="a.jpg")
    assert str(error.value).startswith("sample abc: image 'a.jpg'")
    assert sentence in str(error.value)
    assert not list((tmp_path / "store").glob("*")) if (tmp_path / "store").exists() else True


PLACES = {
    "a URL": ("https://example.org/a.png", "is a URL, which PRISM never fetches"),
    "another scheme": ("file:///etc/passwd", "is a URL"),
    "a data URI": ("data:image/png;base64,AAAA", "is encoded text"),
    "base64": (base64.b64encode(bytes(400)).decode(), "is encoded text"),
    "above the folder": ("../a.png", "must lie in the rows' folder"),
    "absolute": ("/etc/a.png", "must lie in the rows' folder"),
    "missing": ("none.png", "no image 'none.png' in"),
    "empty": (" ", "has no image"),
    "null": (None, "has no image"),
    "a number": (7, "has no image"),
    "Parquet's without bytes": ({"bytes": None, "path": None}, "has no image"),
}


@pytest.mark.parametrize(("value", "sentence"), PLACES.values(), ids=PLACES)
def test_what_a_library_would_fetch_or_find_elsewhere_is_refused(tmp_path, value, sentence):
    with pytest.raises(DataError) as error:
        read_source(value, tmp_path, "rows.jsonl, row 3")
    assert str(error.value).startswith("rows.jsonl, row 3: ")
    assert sentence in str(error.value)


def test_palette_one_bit_grey_and_print_colours_come_out_right(tmp_path):
    red = Image.new("RGB", (32, 32), (255, 0, 0))
    for n, (picture, kind) in enumerate([(red.quantize(4), "PNG"), (red.convert("CMYK"), "TIFF"), (red, "JPEG")]):
        pixel = prepared(tmp_path, encoded(picture, kind), name=f"{n}.png")[16, 16]
        assert numpy.abs(pixel.astype(int) - (255, 0, 0)).max() <= 3
    white = Image.new("1", (32, 32), 1)
    assert (prepared(tmp_path, encoded(white), name="bits.png") == 255).all()
    grey = prepared(tmp_path, encoded(Image.new("L", (32, 32), 90)), name="grey.png")
    assert (grey == 90).all()


def test_transparency_shows_the_background(tmp_path):
    clear = encoded(Image.new("RGBA", (32, 32), (255, 255, 255, 0)))
    assert (prepared(tmp_path, clear) == 0).all()
    options = Options(size=32, background="#ff0000")
    assert (prepared(tmp_path, clear, options)[0, 0] == (255, 0, 0)).all()
    grey = encoded(Image.merge("LA", (Image.new("L", (32, 32), 200), Image.new("L", (32, 32), 0))))
    assert (prepared(tmp_path, grey, name="la.png") == 0).all()


def test_a_turned_photograph_is_turned_once(tmp_path):
    picture = Image.new("RGB", (64, 32), "black")
    picture.paste("white", (0, 0, 32, 32))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: left becomes top
    upright = prepared(tmp_path, encoded(picture, "JPEG", exif=exif, quality=95), Options(max_pixels=10_000))
    assert upright.shape == (64, 32, 3)
    assert upright[:28].mean() > 245
    assert upright[36:].mean() < 10


def test_sixteen_bits_are_scaled_by_their_own_range_where_asked(tmp_path):
    values = numpy.linspace(0, 4095, 32 * 32).reshape(32, 32).astype("uint16")  # 12 bits, as radiographs have
    options = Options(size=32, depth="scale")
    found = prepared(tmp_path, encoded(Image.fromarray(values)), options)
    assert (found.min(), found.max()) == (0, 255)


def test_first_frame_where_asked(tmp_path):
    found = prepared(tmp_path, frames("GIF"), Options(size=32, frames="first"))
    assert not (found == (255, 0, 0)).all()


def test_fit_and_size(tmp_path):
    wide = encoded(Image.new("RGB", (80, 40), "white"))
    padded = prepared(tmp_path, wide, Options(size=32))
    assert padded.shape == (32, 32, 3)
    assert (padded[:7] == 0).all()
    assert (padded[10:22] == 255).all()
    assert (prepared(tmp_path, wide, Options(size=32, fit="stretch")) == 255).all()
    assert prepared(tmp_path, wide, Options(size=(64, 16), fit="stretch")).shape == (16, 64, 3)
    assert prepared(tmp_path, wide, Options(max_pixels=800)).shape == (20, 40, 3)
    assert prepared(tmp_path, wide, Options(max_pixels=99_999)).shape == (40, 80, 3), "never scaled up"


def test_a_row_is_known_by_its_images_bytes_wherever_they_lie(tmp_path):
    content = encoded(gradient())
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(content)
    here = read_source("images/a.png", tmp_path, "row 1")
    beside = read_source("a.png", tmp_path, "row 1")
    inside = read_source({"bytes": content, "path": "b.png"}, tmp_path, "row 1")
    assert len({row_id({"image": source, "question": "?"}) for source in (here, beside, inside)}) == 1
    paths = {prepare(source, SQUARE, tmp_path / "store", "x") for source in (here, beside, inside)}
    assert len(paths) == 1
    other = prepare(inside, Options(size=16), tmp_path / "store", "x")
    assert other not in paths


def test_a_blank_picture_is_as_large_and_made_once(tmp_path):
    path = prepare(read_source({"bytes": encoded(gradient())}, tmp_path, "x"), SQUARE, tmp_path / "store", "x")
    with Image.open(blank(path)) as picture:
        assert picture.size == (32, 32)
        assert len(picture.getcolors()) == 1
    assert blank(path) == blank(path)


OPTIONS = {
    "both": ("size = 32\nmax_pixels = 9", "give either size or max_pixels"),
    "neither": ('fit = "pad"', "give either size or max_pixels"),
    "fit": ('size = 32\nfit = "crop"', "fit = 'crop'"),
    "colour": ('size = 32\nbackground = "0,0,0"', "must be a colour's name"),
    "nothing": ("size = 0", "size must be above 0"),
}


def vision_spec(tmp_path, image="size = 32", lora='placement = "language"', task="medical_vqa"):
    text = SPEC.format(data=tmp_path / "rows.jsonl", model="somewhere").replace("financial_sentiment", task)
    text = text.replace('stratify = "sentiment"', 'group = "image"').partition("[gate.tier1]")[0]
    return write_spec(tmp_path, text.replace("[lora]", f"[image]\n{image}\n\n[lora]\n{lora}") if image else text)


@pytest.mark.parametrize(("image", "sentence"), OPTIONS.values(), ids=OPTIONS)
def test_options_are_checked(tmp_path, image, sentence):
    with pytest.raises(SpecError) as error:
        load_checked_spec(vision_spec(tmp_path, image))
    assert sentence in str(error.value)


def test_images_and_the_table_go_together(tmp_path):
    with pytest.raises(SpecError, match=r"reads images, so the spec needs the table \[image\]"):
        load_checked_spec(vision_spec(tmp_path, image=""))
    with pytest.raises(SpecError, match=r"reads no images; delete \[image\]"):
        load_checked_spec(vision_spec(tmp_path, task="medical_chat"))
    with pytest.raises(SpecError, match=r"\[lora\] placement is missing"):
        load_checked_spec(vision_spec(tmp_path, lora=""))


def test_rows_of_one_picture_stay_together_and_their_twins_are_leaks(tmp_path):
    rows = []
    for n in range(20):
        name = f"{n}.png"
        noise = numpy.random.default_rng(n).integers(0, 255, (48, 48, 3), dtype="uint8")
        (tmp_path / name).write_bytes(encoded(Image.fromarray(noise)))
        rows += [{"image": name, "question": f"Is it {k}?", "answer": ("yes", "no")[k]} for k in (0, 1)]
    write_rows(tmp_path / "rows.jsonl", rows)
    spec = load_checked_spec(vision_spec(tmp_path))
    training, held_out = load_examples(spec, load_task(spec), tmp_path, pictures=tmp_path / "store")
    assert len(training) + len(held_out) == 40
    assert not {e.group for e in training} & {e.group for e in held_out}
    assert all(e.images[0].parent == tmp_path / "store" for e in (*training, *held_out))
