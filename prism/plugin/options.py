"""The options of the pytest plugin: `--prism-…`."""

from __future__ import annotations

import pytest

from prism.errors import PrismError
from prism.models.identity import ENGINES
from prism.plugin.scheduling import training_seeds
from prism.spec import PROFILES


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("prism", "PRISM benchmarks")
    add = group.addoption
    add("--prism-profile", choices=PROFILES, help="nano: embedded, CPU; small: 135 M; full: GPU")
    add("--prism-spec", action="append", default=[], metavar="NAME", help="run this spec only (repeatable)")
    add("--prism-models", metavar="DIR", help="load DIR/<last part of model_name> instead of a model from the hub")
    add("--prism-data", metavar="DIR", help="read DIR/<[data].name>/<split>.jsonl.gz instead of [data].path")
    home = (
        "the store of adapters and answers: a folder, or s3://, gs://, abfs:// (default: $PRISM_HOME, ~/.cache/prism)"
    )
    add("--prism-home", metavar="DIR|URL", help=home)
    cache = "where a store of a URL is cached (default: $PRISM_CACHE, ~/.cache/prism/shared)"
    add("--prism-cache", metavar="DIR", help=cache)
    gib = "delete what was not used for longest from that cache above N GiB (default: $PRISM_CACHE_GIB, 50)"
    add("--prism-cache-gib", metavar="N", help=gib)
    limit = "a smoke run: at most N held-out and N training rows per spec; partial, and nothing to accept"
    add("--prism-limit", type=_limit, metavar="N", help=limit)
    add("--prism-report", metavar="DIR", default="reports", help="write runs/ and latest/ to this folder")
    add("--prism-report-title", metavar="TITLE", default="PRISM", help="title of the reports, to tell several apart")
    add("--prism-track", metavar="NAMES", default="", help="log to trackio, mlflow, tensorboard, wandb (by comma), too")
    add("--prism-engine", choices=ENGINES, help="plain: train by the libraries' own step (or PRISM_ENGINE)")
    add("--prism-retrain", action="store_true", help="train, and check in phase 0, again what the store has")
    alarms = "5 %% false alarms of drop in a run, or over all runs against one accepted run"
    add("--prism-alarms", choices=["run", "reference"], default="run", help=alarms)
    cluster = "train and answer on a Ray cluster: auto (the one on this machine), HOST:PORT or ray://HOST:PORT"
    add("--prism-cluster", metavar="ADDRESS", help=cluster)
    add(
        "--prism-seeds",
        type=_seeds,
        default="1",
        metavar="SEEDS",
        help="train and measure several adapters per spec: a count (5), a range (47-51) or a list (42,47)",
    )
    add(
        "--prism-judge",
        metavar="JUDGE",
        help="openai:MODEL, http://HOST:PORT/v1#MODEL or local:FOLDER (or PRISM_JUDGE)",
    )
    add("--prism-judge-budget", metavar="N", help='stop judging at this cost: "2.50" dollars or "200k tokens"')
    add(
        "--prism-require",
        action="append",
        default=[],
        choices=["tier3", "decided"],
        help="fail if tier3 cannot be decided, or if any threshold is inconclusive (decided)",
    )


def _seeds(text: str) -> str:
    try:
        training_seeds(text, 0)
    except PrismError as error:
        raise pytest.UsageError(str(error)) from None
    return text


def _limit(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise pytest.UsageError(f"--prism-limit {text}: must be a whole number of rows, 2 or more")
    return int(text)
