"""The Hugging Face model card of an adapter: what a run measured of it, on what, and what that does not say.

It is made when somebody asks for it, from the run's record: the adapter's folder is stored before anything is measured
of it, and its digest covers its files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prism import __version__
from prism.report import callouts, findings, words
from prism.report.markdown import code, prose, table
from prism.report.tables import Table
from prism.spec import Spec
from prism.store.sources import is_local
from prism.verdicts.record import Record, Result, Run, Score

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

CAUTION = "This is a measurement and no clearance: no decision about a patient or about money should rest on its answers alone."


def adapters(result: Result) -> dict[str, str]:
    """The digests of the adapters that a result was measured with, by training seed; a finished one has none: ""."""
    digests = result.details.get("digests") or {}
    return dict(digests.get("adapters") or ({"": digests["adapter"]} if "adapter" in digests else {}))


def base_of(result: Result, spec: Spec) -> str:
    """The base as the measured spec named it; today's spec may name another."""
    return str(((result.details.get("options") or {}).get("model") or {}).get("model_name") or spec.model.model_name)


def card(run: Run, result: Result, digest: str, spec: Spec, root: Path, repo: str, licence: str | None) -> ModelCard:
    """The card of the adapter `digest`, one of those that `result` was measured with.

    `repo` is the name that it is loaded by, `licence` the owner's choice. Intervals are of 95 %.
    """
    from huggingface_hub import ModelCard, ModelCardData

    base, data = base_of(result, spec), spec.data.path
    on_hub = not is_local(base, root)
    metadata = ModelCardData(
        model_name=repo,
        library_name="peft",
        pipeline_tag="image-text-to-text" if spec.image else "text-generation",
        tags=["lora", "prism"],
        license=licence,
        base_model=base if on_hub else None,
        base_model_relation="adapter" if on_hub else None,
        datasets=None if is_local(data, root) else [data],
        eval_results=list(_evaluated(result, spec)),
    )
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{_text(run, result, digest, spec, root, repo, licence)}")


def _evaluated(result: Result, spec: Spec) -> Iterable[EvalResult]:
    """The measured metrics for the hub's model-index. It has no field for intervals; they are the metric's arguments."""
    from huggingface_hub import EvalResult

    data = result.details.get("data") or {}
    task = "visual-question-answering" if spec.image else "text-generation"
    for record in _measured(result):
        yield EvalResult(
            task_type=task,
            task_name=result.title,
            dataset_type=spec.data.path,
            dataset_name=spec.data.name or spec.data.path,
            dataset_revision=data.get("revision"),
            dataset_split="held out",
            metric_type=record.metric,
            metric_name=record.metric,
            metric_value=_known(_told(record).value),
            metric_args={
                "n": record.n,
                "groups": record.groups,
                "ci95": _ends(_told(record)),
                **(
                    {
                        "base_model": _known(record.baseline.value),
                        "gain": _known(record.gain.value),
                        "gain_ci95": _ends(record.gain),
                    }
                    if record.against == "baseline"
                    else {"over": record.against}
                ),
            },
        )


def _measured(result: Result) -> list[Record]:
    return [record for record in result.records if record.tier != "cost" and math.isfinite(_told(record).value)]


def _told(record: Record) -> Score:
    """The metric's value: the adapter's; of a metric against a control, whose name says so, how far it is ahead."""
    return record.tuned if record.against == "baseline" else record.gain


def _ends(score: Score) -> list[float] | None:
    return None if math.isnan(sum(score.ci)) else [round(end, 6) for end in score.ci]


def _known(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _text(run: Run, result: Result, digest: str, spec: Spec, root: Path, repo: str, licence: str | None) -> str:
    base, data, details = base_of(result, spec), spec.data.path, result.details
    rows: Mapping[str, Any] = details.get("data") or {}
    training = words.count(rows["training"], "training row") if "training" in rows else "training rows unknown"
    revision = (details.get("model") or {}).get("revision") or spec.model.revision
    options = details.get("options") or {}
    seeds = adapters(result)
    seed = next((seed for seed, known in seeds.items() if known == digest), "")
    facts = [
        ["base model", f"{base}{f' @ {revision}' if revision else ''}{_licence(base, root)}"],
        ["data", f"{spec.data.name or data}{_licence(data, root)}: {training}, {rows.get('held_out', '?')} held out"],
        *([["training seed", seed]] if seed else []),
        ["licence of this adapter", licence or "not stated: ask its owner"],
        ["adapter's digest in PRISM's store", digest],
        ["evaluation digest", str((details.get("digests") or {}).get("evaluation", ""))],
        ["measured by", f"PRISM {__version__}, run {run.id}, {findings.commit(run) or 'no commit'}"],
    ]
    made = [pair for key in ("lora", "sft", "generate") for pair in words.flat(options.get(key), key)]
    blocks = [
        f"# {prose(result.title or result.id)}",
        f"A LoRA adapter for {code(base)}, measured with PRISM against that base on the same held-out samples.",
        "## Results",
        table(_scores(result)),
        "Intervals are of 95 %, over samples. ↓: lower is better; a positive gain is always an improvement."
        + (
            f" Values are means over {len(seeds)} training seeds, of which this adapter is one."
            if len(seeds) > 1
            else ""
        ),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(run, result, spec)),
        "## Data and origin",
        table(Table(["", ""], [[name, value] for name, value in facts], numbers=2)),
        "## Use",
        _use(base, revision, root, repo, bool(spec.image)),
        *(["## Options", table(Table(["key", "value"], [list(pair) for pair in made], numbers=2))] if made else []),
    ]
    return "\n\n".join(blocks) + "\n"


def _use(base: str, revision: str | None, root: Path, repo: str, vision: bool) -> str:
    auto = "AutoModelForImageTextToText" if vision else "AutoModelForCausalLM"
    pinned = f', revision="{revision}"' if revision and not is_local(base, root) else ""
    return "\n".join(
        (
            "```python",
            "from peft import PeftModel",
            f"from transformers import {auto}",
            "",
            f'base = {auto}.from_pretrained("{base}"{pinned})',
            f'model = PeftModel.from_pretrained(base, "{repo}")',
            "```",
        )
    )


def _scores(result: Result) -> Table:
    rows = [
        [
            words.metric_name(record),
            f"{record.n:,}",
            words.number(record.baseline.value) if record.against == "baseline" else words.NOTHING,
            _with_interval(record.tuned) if record.against == "baseline" else words.NOTHING,
            words.gain(record)
            + ("" if record.against == "baseline" else f" over {words.control_name(record.against)}"),
        ]
        for record in _measured(result)
    ]
    return Table(["metric", "n", "base model", "with this adapter", "gain"], rows, numbers=1)


def _with_interval(score: Score) -> str:
    ends = _ends(score)
    return words.number(score.value) + (
        f" [{words.number(ends[0])}, {words.number(ends[1])}]" if ends else " [unknown]"
    )


def _limits(run: Run, result: Result, spec: Spec) -> list[str]:
    """What the numbers do not say, and what speaks against the adapter."""
    tried = f"{spec.data.name or spec.data.path} alone ({', '.join(findings.sizes(result)[1:])})"
    lines = [f"Measured on {tried}; other texts were not tried."]
    failed = [(record, verdict) for record, verdict in result.verdicts().values() if verdict.state != "holds"]
    lines += [
        f"{words.metric_name(r)}, {words.threshold(v)}: {words.state_name(v.state)} ({v.reason})." for r, v in failed
    ]
    if not run.complete:
        lines.append(f"The run was partial: {run.partial}.")
    lines += [f"{line}." for line in callouts.of_spec(result, run) or callouts.of_run(run)]
    if met := callouts.contenders(result):
        lines.append(f"{met[1]}.")
    return [*map(prose, lines), CAUTION]


def _licence(name: str, root: Path) -> str:
    """The licence in the metadata of a local folder's README.md, for the table; empty where it is not known."""
    from huggingface_hub import metadata_load

    file = root / Path(name).expanduser() / "README.md"
    if not is_local(name, root) or not file.is_file():
        return ""
    found = (metadata_load(file) or {}).get("license")
    return f" ({found})" if found else ""
