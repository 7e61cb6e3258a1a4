"""Choose a judge: an option or PRISM_JUDGE names it, and nothing in the environment lets one be guessed.

Cheap to import, because every run asks whether there is a judge; `asking` sends it requests.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from prism.errors import PrismError
from prism.judge.spending import Price
from prism.redaction import keep

NOT_CONFIGURED = (
    "no judge is configured: pass --prism-judge openai:gpt-4o-mini, --prism-judge http://HOST:PORT/v1#MODEL or "
    "--prism-judge local:FOLDER, or set PRISM_JUDGE"
)
OPENAI = "https://api.openai.com/v1"


class JudgeError(PrismError):
    """The judge cannot be used at all: no key, no endpoint, no such model."""


@dataclass(frozen=True)
class Choice:
    """The chosen judge and its request limits."""

    kind: Literal["openai", "endpoint", "local"]
    model: str
    address: str = ""
    key: str = field(default="", repr=False)
    price: Price | None = None
    in_flight: int = 32
    per_minute: float = math.inf
    timeout: float = 120.0
    attempts: int = 6

    @property
    def name(self) -> str:
        return f"{self.kind}:{Path(self.model).name if self.kind == 'local' else self.model}"

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine: another one would look for it on itself."""
        return self.kind == "local" or urlsplit(self.address).hostname in ("localhost", "127.0.0.1", "::1")

    def identity(self) -> dict[str, str]:
        """What determines its grades. The address does not: the same model at another address is the same judge."""
        return _local_identity(self.model) if self.kind == "local" else {"kind": self.kind, "model": self.model}


@cache  # hashes gigabytes of weights, and every set of grades needs it
def _local_identity(folder: str) -> dict[str, str]:
    from prism.store.provenance import versions
    from prism.store.sources import base_identity

    libraries = versions(["torch", "transformers", "llguidance"])
    return {"kind": "local", "decoding": "2", **base_identity(folder, Path.cwd(), "the judge"), **libraries}


def choose(text: str | None, environ: Mapping[str, str] = os.environ) -> Choice | None:
    """The judge that an option or PRISM_JUDGE names, or None if neither does.

    `openai:MODEL` takes its key from OPENAI_API_KEY, `http://HOST:PORT/v1#MODEL` from PRISM_JUDGE_API_KEY (if the
    server needs one), `local:FOLDER` needs no key. PRISM_JUDGE_PRICE sets a price.
    """
    text = (text or environ.get("PRISM_JUDGE") or "").strip()
    if not text:
        return None
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e]", text):
        raise JudgeError(
            f"judge {_masked(text)!r}: holds a line end or a control character; write openai:MODEL, "
            f"http://HOST:PORT/v1#MODEL or local:FOLDER without"
        )
    price = Price.parse(environ["PRISM_JUDGE_PRICE"]) if environ.get("PRISM_JUDGE_PRICE") else None
    if text.startswith("openai:") and text != "openai:":
        model = text.removeprefix("openai:")
        if not (key := _key("OPENAI_API_KEY", environ)):
            raise JudgeError(f"judge {_masked(text)}: OPENAI_API_KEY is not set; set it, or name another judge")
        return Choice("openai", model, OPENAI, key, price or Price.published(model))
    if text.startswith("local:") and text != "local:":
        try:
            folder = Path(text.removeprefix("local:")).expanduser().resolve()
            with suppress(FileNotFoundError):  # which is said where the model is loaded
                folder.stat()  # from Python 3.13 on `resolve` says nothing of links in a circle
        except (OSError, RuntimeError) as error:  # of an unknown user's home, or of links in a circle
            raise JudgeError(f"judge {text}: the folder cannot be found ({error}); name another") from None
        if find_spec("llguidance") is None:
            raise JudgeError(
                f"judge {text}: llguidance is not installed, and without it small models seldom write JSON; "
                f"pip install 'pytest-prism[judge-local]', or name another judge"
            )
        return Choice("local", str(folder), in_flight=1)
    address, _, model = text.partition("#")
    if address.startswith(("http://", "https://")) and address.partition("://")[2] and model:
        _check_address(text, address, model)
        return Choice("endpoint", model, address.rstrip("/"), _key("PRISM_JUDGE_API_KEY", environ), price)
    raise JudgeError(f"judge {_masked(text)!r}: not one of openai:MODEL, http://HOST:PORT/v1#MODEL, local:FOLDER")


def _check_address(text: str, address: str, model: str) -> None:
    """Raise JudgeError if requests cannot be sent to the address, or if it holds what a key's variable is for."""
    wanted = "leave that out, and set PRISM_JUDGE_API_KEY if the server needs a key"
    if "@" in address or re.search("@.*[/#]", model):  # a password may hold a "#"
        raise JudgeError(f"judge {_masked(text)!r}: its address holds a user name or a password; {wanted}")
    if "?" in address:
        raise JudgeError(f"judge {_masked(text)!r}: its address has a query, which may hold a key; {wanted}")
    try:
        parts = urlsplit(address)
        readable = bool((parts.hostname or "").encode("idna")) and parts.port != 0
    except ValueError:  # its own message may quote a password
        readable = False
    if not readable or not re.fullmatch(r"[\x21-\x7e]+", address) or not model.isprintable():
        raise JudgeError(
            f"judge {_masked(text)!r}: its address cannot be read; write http://HOST:PORT/v1#MODEL with a port from 1 to "
            f"65535, without spaces, and with [ ] around the address of an IPv6 host"
        )


def _masked(text: str) -> str:
    """The named judge without what may be a password or a key: all before the last @, and a query."""
    return re.sub(r"\?.*", "?…", re.sub(r"^(\w+:/*)?.*(?:@|%40)", r"\1…@", text, flags=re.DOTALL), flags=re.DOTALL)


def _key(variable: str, environ: Mapping[str, str]) -> str:
    """The key in an environment variable, redacted from now on; empty if there is none."""
    key = environ.get(variable, "").strip()
    keep(key)
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise JudgeError(
            f"{variable}: holds a space, a line end or a character that is not ASCII, which no key has; set it to the "
            f"key alone"
        )
    return key
