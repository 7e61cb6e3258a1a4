"""Text of strangers, wherever it is printed: no terminal, CI log, comment or XML reader takes it for more than text."""

import random
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from prism.cli import app
from prism.errors import SpecError
from prism.progress import Console
from prism.report.markdown import code, inert, prose
from prism.untrusted import terminal_safe, visible
from tests.conftest import SPEC, write_spec

ESCAPES = {
    "\x1b[31m": "a colour",
    "\x1b]8;;http://evil.example\x07": "a link",
    "\x1b]52;c;AAAA\x1b\\": "the clipboard",
    "\x9b2J": "clear the screen, in one byte",
    "\x7f\x08": "delete",
    "\u202e\u2066": "another direction",
    "\u200b\u200d\ufeff": "no width",
    "\ud800": "half a surrogate pair",
}
HOSTILE = "".join(ESCAPES) + "\n::error::gone\n  ::set-output name=a::b\r::add-mask::c ##[error]d ##vso[task.complete]"


def assert_inert(text):
    assert all(character == "\n" or character.isprintable() for character in text), ascii(text)
    assert not any(line.lstrip().startswith("::") for line in text.split("\n")), text
    assert "##[" not in text
    assert "##vso[" not in text
    text.encode()


@pytest.mark.parametrize("escape", ESCAPES, ids=ESCAPES.values())
def test_an_escape_is_shown_and_not_sent(escape):
    assert_inert(terminal_safe(f"a{escape}b"))
    assert "\\" in terminal_safe(escape)


def test_commands_to_a_ci_log_are_shown():
    assert terminal_safe("::error::x") == "\\x3a:error::x"
    assert terminal_safe("a\n \t::x::") == "a\n  \\x3a:x::"
    assert terminal_safe("a ##[group]b") == "a \\x23#[group]b"
    assert terminal_safe("tests/test_a.py::test_b ## c") == "tests/test_a.py::test_b ## c"


def test_any_text_is_inert():
    draw = random.Random(0)
    alphabet = [
        *map(chr, range(0x300)),
        *"\u2028\u2029\u202e\u2066\ufeff\U000e0001\u3000",
        *HOSTILE,
        "::",
        "##[",
        "\n::",
    ]
    for _ in range(3_000):
        anywhere = (chr(draw.randrange(0x110000)) for _ in range(5))
        text = "".join(draw.sample([*draw.choices(alphabet, k=25), *anywhere], 30))
        shown = terminal_safe(text)
        assert_inert(shown)
        assert terminal_safe(shown) == shown
        assert visible(shown) == shown


FRAGMENTS = [
    "![",
    "[",
    "]",
    "](",
    "](http://evil.example/x.png)",
    "(",
    "`",
    "``",
    "```",
    "\\",
    "|",
    "\\|",
    "<",
    "<!--",
    "-->",
    "<img>",
    "</details>",
    "&lt;",
    "&",
    "@ann",
    "#",
    "#12",
    "GH-12",
    "a/b#3",
    "http://",
    "https://e.example",
    "www.e.example",
    "ftp://e.example",
    "mailto:a@b.example",
    "xmpp:a@b",
    "a@b.example",
    "*",
    "**",
    "_",
    "__",
    "~~",
    "-",
    "1.",
    ">",
    "---",
    "===",
    ":",
    "[a]:http://x",
    "[^1]",
    "[^1]:",
    "]:",
    "!",
    "{{",
] + ["\n", "\n\n", "\r", "    ", "\t", "\u202e", "\x1b", "\u2028", "a", "b "]
ACTIVE = {"link_open", "image", "html_inline", "html_block", "em_open", "strong_open", "fence", "code_block", "hr"}


def tokens(markdown):
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    found = reader.parse(markdown)
    return [token for parent in found for token in (parent, *(parent.children or ()))]


def test_markdown_renders_no_stranger_s_text():
    """In a heading, a list and a cell: no image that loads an address, link, HTML or emphasis, and one cell a cell."""
    draw = random.Random(1)
    for _ in range(1_500):
        text = "".join(draw.choices(FRAGMENTS, k=draw.randint(1, 8)))
        cell = prose(text).replace("|", "\\|")
        for page in (f"# a {prose(text)}", f"- b: {prose(text)}", f"| a | b |\n|---|---|\n| {cell} | x |"):
            assert not {token.type for token in tokens(page)} & {*ACTIVE, "code_inline"}, (text, page)
        spans = tokens(f"| a | b |\n|---|---|\n| {code(text).replace('|', chr(92) + '|')} | x |")
        assert sum(token.type == "td_open" for token in spans) == 2, text
        assert sum(token.type == "code_inline" for token in spans) == (code(text) != "_empty_"), text


@pytest.mark.parametrize(
    "linked", ["GH-12", "ftp://a.example", "mailto:a@b.example", "xmpp:a", "@ann", "#1", "www.a.b"]
)
def test_github_links_none_of_it(linked):
    assert linked not in inert(linked)


def test_errors_and_progress_are_inert(capsys):
    assert_inert(str(SpecError(HOSTILE)))
    Console().say(HOSTILE)
    with Console().progress(HOSTILE):
        pass
    assert_inert(capsys.readouterr().err.rstrip("\n"))


def test_titles_and_origins_are_inert_on_the_command_line(tmp_path):
    title = HOSTILE.replace("\ud800", "").encode("unicode_escape").decode()
    title = title.replace("\\x", "\\u00")
    write_spec(tmp_path, SPEC.replace('title    = "tiny"', f'title    = "{title}"').format(data="a.jsonl", model="m"))
    shown = CliRunner().invoke(app, ["specs", "--root", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "\\x1b[31m" in shown.output
    assert_inert(shown.output)


HOSTILE_TESTS = """
import pytest
HOSTILE = {hostile!r}

def test_raises():
    print(HOSTILE)
    raise ValueError(HOSTILE)

def test_fails():
    pytest.fail(HOSTILE, pytrace=False)

def test_skips():
    pytest.skip(HOSTILE)
"""


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_what_pytest_prints_and_writes_of_an_item_is_inert(checkout, workers):
    (checkout.path / "benchmarks" / "test_phase1_hostile.py").write_text(HOSTILE_TESTS.format(hostile=HOSTILE))
    options = ("-rA", "--junitxml=junit.xml", "-p", "no:cacheprovider", *workers)
    out = checkout.runpytest_subprocess("benchmarks/test_phase1_hostile.py", *options)
    out.assert_outcomes(failed=2, skipped=1)
    assert "\\x1b]52;c;AAAA" in out.stdout.str()
    for line in out.outlines:
        assert_inert(line)
    texts = " ".join(ElementTree.parse(checkout.path / "junit.xml").getroot().itertext())
    assert "\\x1b[31m" in texts
    assert all(character in "\n\t" or character.isprintable() for character in texts)
