"""Keep known secrets out of what is written: the messages of errors, logs, reports, judgements, the terminal.

A secret is what `keep` was told, the value of an environment variable that holds a key, a token or a proxy's password, or a
token that `hf auth login` has saved. A value under 8 characters ("x", "none") is none: to blot it out would spoil ordinary words.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

REDACTED = "[redacted]"
SHORTEST = 8  # characters
SHORTEST_OF_OTHERS = 16  # of variables that PRISM does not read: only their names say that they hold a secret
READ = frozenset({"OPENAI_API_KEY", "PRISM_JUDGE_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
OTHERS = re.compile(r"(?i)(?:^|_)(?:API_?KEY|ACCESS_KEY|SECRET_KEY|SECRET|TOKEN|PASSWORD|PASSWD)$")
PROXIES = re.compile(r"(?i)^(?:https?|all)_proxy$")

_kept: set[str] = set()


def keep(secret: str) -> None:
    """Redact this value from now on, in this process."""
    _kept.add(secret)


def redacted(text: str) -> str:
    """The text without known secrets, be they as they are, escaped as in JSON, HTML or a URL, or in base64."""
    for secret in _secrets():
        for form in _forms(secret):
            text = text.replace(form, REDACTED)
    return text


def redact_logs() -> None:
    """Redact each log record of this process as it is made, with its traceback."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, _Records):
        logging.setLogRecordFactory(_Records(make))


class _Records:
    """A factory of log records, see `logging.setLogRecordFactory`."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self.make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self.make(*args, **kwargs)
        try:
            message = record.getMessage()
        except (TypeError, ValueError, LookupError):  # a wrong format, which logging itself would report in full
            message = f"{record.msg} {record.args}"
        if redacted(message) != message:
            record.msg, record.args = redacted(message), None
        if record.exc_info and record.exc_info[0]:
            trace = logging.Formatter().formatException(record.exc_info)
            if redacted(trace) != trace:
                record.exc_info, record.exc_text = None, redacted(trace)
        return record


def _secrets() -> list[str]:
    """The longest first, since one may be a part of another."""
    found = {secret for secret in (*_kept, *_saved_by_hub()) if len(secret) >= SHORTEST}
    for name, value in os.environ.items():
        secret = _password(value) if PROXIES.search(name) else value.strip()
        known = name in READ or PROXIES.search(name)
        if len(secret) >= (SHORTEST if known else SHORTEST_OF_OTHERS) and (known or OTHERS.search(name)):
            found.add(secret)
    return sorted(found, key=len, reverse=True)


def _saved_by_hub() -> set[str]:
    """The tokens in the files of `hf auth login`, found where huggingface_hub looks for them."""
    given = os.environ.get
    home = given("HF_HOME") or os.path.join(given("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    path = Path(os.path.expandvars(given("HF_TOKEN_PATH") or os.path.join(home, "token"))).expanduser()
    found: set[str] = set()
    for file in (path, path.with_name("stored_tokens")):
        try:
            found.update(_tokens_in(file, file.stat().st_mtime_ns))
        except (OSError, ValueError):  # there is none, or it is no text
            continue
    return found


@cache
def _tokens_in(file: Path, written: int) -> tuple[str, ...]:
    """Of the one token of a file, or of lines such as `hf_token = …`; read again when the file was `written` anew."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(line.rpartition("=")[2].strip() for line in lines if not line.startswith("["))


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""


@cache
def _forms(secret: str) -> tuple[str, ...]:
    """How a secret may be written; in base64 at each of the three places that it can begin at, as after "Bearer "."""
    forms = {secret, html.escape(secret), repr(secret)[1:-1]}
    forms |= {quote(secret, safe, errors="surrogatepass") for safe in ("", "/")}
    forms |= {quote_plus(secret, errors="surrogatepass")}
    forms |= {re.sub("%..", lambda escape: escape[0].lower(), form) for form in forms}
    for _ in range(2):  # JSON in JSON
        escaped = {json.dumps(form)[1:-1] for form in forms}
        forms |= escaped | {form.replace("/", r"\/") for form in escaped}
    forms |= {"".join(f"\\u{ord(c):04x}" for c in secret), "".join(f"%{ord(c):02X}" for c in secret)}
    raw = secret.encode("utf-8", "surrogatepass")
    for before in range(3):
        whole = base64.b64encode(bytes(before) + raw).decode().rstrip("=")
        first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6  # characters of none but its own bits
        forms |= {whole[first:last], whole[first:last].translate(str.maketrans("+/", "-_"))}
    return tuple(sorted(forms, key=len, reverse=True))
