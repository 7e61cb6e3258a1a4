"""Valid inputs made invalid: by bytes, by tokens and by structure. The same random state makes the same input."""

from __future__ import annotations

import gzip
import json
import random
import re
from typing import Any

DEEP = "\0deep\0"  # stands for JSON that is nested beyond what Python reads
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2**32, 2**63, -(2**63) - 1, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308),
    *(float("nan"), float("inf"), -float("inf"), DEEP, "", " ", "0", "nan", "true", "a", "../../x", "/etc/passwd", "~"),
    *("\u2028", "\ud800", "\0", "\x1b[2J", "é🙂", "5%" * 2_000, "a" * 100_000, "{{", "<script>", "owner/name", "%s%n"),
    *([], {}, [[]], [{}], {"": ""}, [1, "a", None], list(range(1_000)), {"a": {"b": [1]}}),
]
TOKENS = [
    *(b"null", b"true", b"-1", b"0", b"1e400", b"NaN", b"1" * 5_000, b'""', b"''", b"[]", b"{}", b"[" * 5_000),
    *(b'{"a":' * 5_000, b"a." * 5_000, b"(" * 2_000, b'"', b"\n", b"\r", b"\0", b"\xff", b"\xe2\x80\xa8", b"\\ud800"),
    *(b"\\", b",", b"\x1b[2J", b"../../x", b"a" * 50_000, b"{% for i in range(9) %}", b"{{ a.b }}", b"{%", b"}}"),
    *(b"5%" * 5_000, b"<think>", b"<|im_end|>", b"1970-01-01", b"4294967296", b"-9223372036854775809", b"1e-320"),
]
PIECE = re.compile(rb'"(?:[^"\\\n]|\\.)*"|-?\d[\d.eE+-]*|[A-Za-z_]\w*|[^\w\s]')


def mutated(state: random.Random, seeds: list[bytes]) -> bytes:
    """One seed with one to four changes; of one that is compressed, mostly what it contains is changed."""
    content = state.choice(seeds)
    packed = content[:2] == b"\x1f\x8b" and state.random() < 0.8
    if packed:
        content = gzip.decompress(content)
    for _ in range(state.choice((1, 1, 1, 2, 4))):
        ways = [_bytes, _tokens, _tokens, _lines]
        if content[:1] in (b"{", b"[") and len(content) < 200_000:
            ways += [_structure] * 4
        content = state.choice(ways)(state, content, seeds)
    return gzip.compress(content, 1, mtime=0) if packed else content


def _bytes(state: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    """Flip bits, cut off, take out, repeat, or go on with another seed."""
    at, to = sorted(state.randrange(len(content) + 1) for _ in range(2))
    way = state.randrange(5)
    if way == 0:
        changed = bytearray(content)
        for _ in range(state.choice((1, 1, 8))):
            if changed:
                changed[state.randrange(len(changed))] ^= 1 << state.randrange(8)
        return bytes(changed)
    if way == 1:
        return content[:at]
    if way == 2:
        return content[:at] + content[min(to, at + 64) :]
    if way == 3:
        return content[:to] + content[at:to][:64] * state.choice((1, 2, 1_000)) + content[to:]
    return content[:at] + state.choice(seeds)[at:]


def _tokens(state: random.Random, content: bytes, _: list[bytes]) -> bytes:
    """Another token in place of one, or between two."""
    pieces = list(PIECE.finditer(content[:50_000]))
    token = state.choice(TOKENS)
    if not pieces:
        return content + token
    piece = state.choice(pieces)
    if state.random() < 0.3:
        token = state.choice(pieces)[0]
    return content[: piece.start()] + token + content[piece.end() if state.random() < 0.7 else piece.start() :]


def _lines(state: random.Random, content: bytes, _: list[bytes]) -> bytes:
    """A line that is missing, repeated or in another place."""
    lines = content.split(b"\n")
    at, to = (state.randrange(len(lines)) for _ in range(2))
    way = state.randrange(3)
    if way == 0:
        del lines[at]
    elif way == 1:
        lines.insert(to, lines[at])
    else:
        lines[at], lines[to] = lines[to], lines[at]
    return b"\n".join(lines)


def _structure(state: random.Random, content: bytes, _: list[bytes]) -> bytes:
    """Another value, or none, at a place of a JSON document, or of one of its lines."""
    lines = [content]
    try:
        documents = [json.loads(content)]
    except (ValueError, RecursionError):
        lines = [line for line in content.split(b"\n") if line]
        try:
            documents = [json.loads(line) for line in lines]
        except (ValueError, RecursionError):
            return content
    at = state.randrange(len(documents))
    documents[at] = _changed(state, documents[at])
    lines[at] = json.dumps(documents[at], ensure_ascii=state.random() < 0.5).encode("utf-8", "surrogatepass")
    depth = state.choice((50, 500, 5_000, 100_000))
    return b"\n".join(lines).replace(json.dumps(DEEP).encode(), b"[" * depth + b"]" * depth)


def _changed(state: random.Random, document: Any) -> Any:
    """The document with one node changed; each node is as likely as its parent's others."""
    if not isinstance(document, dict | list) or not document or state.random() < 0.15:
        return state.choice(VALUES)
    keys = list(document) if isinstance(document, dict) else range(len(document))
    key = state.choice(keys)
    way = state.random()
    if way < 0.1:
        del document[key]
    elif way < 0.15 and isinstance(document, dict):
        document[state.choice(["", "a" * 1_000, "../x", "\x1b[2J", "__class__", "\u2028"])] = document[key]
    elif way < 0.2:
        document[key] = document[state.choice(keys)]
    else:
        document[key] = _changed(state, document[key])
    return document
