"""Text that PRISM did not write, made safe to show: rows, answers, judge replies, titles, file names, library errors."""

from __future__ import annotations

import re
from typing import Any

# A job's log is read for commands: a line that begins with ::error:: by GitHub, ##[error], ##vso[…] and
# ##teamcity[…] anywhere in a line by GitHub, Azure and TeamCity.
_COMMAND = re.compile(r"^( *):(?=:)|(#)(?=#\w*\[)", re.MULTILINE)


def visible(text: Any, limit: int | None = None) -> str:
    """Untrusted text cut to `limit` characters, with invisible ones except newlines shown as escapes.

    Terminal codes, bidirectional overrides and lone surrogates would change what the reader sees, or break the file.
    """
    whole = "" if text is None else str(text).replace("\r\n", "\n")
    if limit is not None and len(whole) > limit:
        whole = whole[: limit - 1] + "…"
    return escaped(whole)


def escaped(text: str) -> str:
    """The text with each invisible character but newlines as an escape; other white space becomes a space."""
    if text.replace("\n", "").isprintable():  # as nearly every text is: a report shows tens of thousands
        return text
    return "".join(map(_escaped, text))


def terminal_safe(text: Any) -> str:
    r"""`visible` text in which no line commands the machine that runs the job: ::error:: becomes \x3a:error::."""
    return _COMMAND.sub(lambda found: "\\x23" if found[2] else f"{found[1]}\\x3a", visible(text))


def _escaped(character: str) -> str:
    if character == "\n" or character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")
