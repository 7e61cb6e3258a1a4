"""Answers brought home: what a run was told, in one file, to score it again where its models cannot run.

A bundle holds a run's results.json and, of each spec, the answers, the label likelihoods and how the adapters were made
(their manifests, without the weights). `rescore` reads several, which may be runs of other seeds of the same specs, and
measures and decides with the code, the rows and the specs of this checkout. Prompts and training rows must be those that
the answers belong to.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prism.errors import ScoresError
from prism.experiment import Experiment
from prism.models import cost
from prism.models.identity import TRAINING_LIBRARIES, adapter_identity, predictions_identity
from prism.plugin import results
from prism.plugin.results import Results
from prism.setting import Setting
from prism.spec import Spec
from prism.store import MANIFEST, Store, read_manifest
from prism.store.provenance import provenance
from prism.tasks.check import load_checked_spec
from prism.verdicts.record import Run, parse_run

RESULTS = "results.json"
ARTIFACT = re.compile(r"[a-z]+/[0-9a-f]{64}")  # in the store: no path that leads out of it


def pack(run: Path, store: Store, out: Path) -> int:
    """Write the bundle of a run's folder to `out` (.tar.xz); return its bytes. The run's artifacts must be in `store`.

    Raises ScoresError if the run names none, or if the store no longer has one.
    """
    try:
        named = _artifacts(run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScoresError(f"{run}: names no answers ({error!r}); run the benchmarks again and pack that run") from None
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with tarfile.open(partial, "w:xz") as bundle:
            bundle.add(run / RESULTS, RESULTS)
            for artifact in sorted(named):
                folder = store.home / artifact
                if not (folder / MANIFEST).is_file():
                    raise ScoresError(f"{artifact}: is not in the store {store.home}; pass the --home of that run")
                for file in (MANIFEST, *sorted(path.name for path in folder.glob("*.jsonl"))):
                    bundle.add(folder / file, f"{artifact}/{file}")
        os.replace(partial, out)
    finally:  # an interruption or a full disk leaves no half
        partial.unlink(missing_ok=True)
    return out.stat().st_size


def rescore(bundles: Sequence[Path], setting: Setting, reports: Path, command: str) -> tuple[Run, Path]:
    """Score the answers of bundles again, and write the report of a new run; return it with its folder.

    Raises ScoresError if a file is no bundle, if two hold the same seed of a spec, or if prompts or training rows differ
    from those of this checkout.
    """
    with TemporaryDirectory() as temporary:
        unpacked = [_unpack(path, Path(temporary) / str(n)) for n, path in enumerate(bundles)]
        runs = [json.loads((folder / RESULTS).read_text(encoding="utf-8")) for folder in unpacked]
        by_spec: dict[str, list[tuple[Path, dict[str, str]]]] = {}
        for folder, run in zip(unpacked, runs):
            for spec in run["specs"]:
                name = f"{spec['phase']}/{spec['spec']}"
                by_spec.setdefault(name, []).append((folder, spec["details"]["artifacts"]))
        run_id = results.new_id()
        saved = Results(reports, run_id, "main")
        for name, parts in by_spec.items():
            spec = load_checked_spec(setting.root / "benchmarks" / "specs" / f"{name}.toml")
            experiment = _answered(spec, setting, parts)
            outcome = experiment.outcome
            made = read_manifest(next(iter(experiment.adapters.values())))["identity"]
            told = {**outcome.result.details, "engine": made["engine"]}
            decided = tuple(outcome.result.verdicts())
            saved.save(replace(outcome, result=replace(outcome.result, details=told, decided=decided)))
        found = saved.gather()
        verdict, reason = results.verdict(found, [], setting.required)
        here = provenance(setting.root, TRAINING_LIBRARIES)
        measured = [{"run": run["id"], **_origin(run["provenance"])} for run in runs]
        whole = all(run["complete"] for run in runs)
        run = Run(
            id=run_id,
            results=found,
            complete=whole,
            partial="" if whole else "; ".join(run["partial"] for run in runs if run["partial"]),
            verdict=verdict,
            reason=reason,
            command=command,
            provenance={**here, **{key: runs[0]["provenance"][key] for key in ("versions", "machine", "python")}}
            | {"answered": measured},
        )
        return run, saved.publish(run, setting.store)


def _origin(known: Mapping[str, Any]) -> dict[str, Any]:
    return {"commit": known.get("commit"), "tree": known.get("tree"), "gpus": known["machine"]["gpus"]}


def _artifacts(folder: Path) -> set[str]:
    """What a run's specs name in the store.

    Raises ValueError, KeyError, TypeError or AttributeError if they name nothing, or something that lies elsewhere.
    """
    run = parse_run((folder / RESULTS).read_text(encoding="utf-8"))
    found = {artifact for spec in run.results for artifact in spec.details["artifacts"].values()}
    if not found or (wrong := sorted(name for name in found if not ARTIFACT.fullmatch(name))):
        raise ValueError(f"{wrong[0][:80]!r} is no artifact of a store" if found else "it has no specs")
    known = run.provenance  # which `rescore` keeps
    if not known.keys() >= {"versions", "python", "machine"} or "gpus" not in known["machine"]:
        raise ValueError("it does not say where it was measured")
    return found


def _unpack(path: Path, folder: Path) -> Path:
    try:
        with tarfile.open(path) as bundle:
            bundle.extractall(folder, filter="data")
        _artifacts(folder)
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScoresError(f"{path}: is no bundle of answers ({error!r}); make one with prism bundle") from None
    return folder


def _answered(spec: Spec, setting: Setting, parts: Sequence[tuple[Path, Mapping[str, str]]]) -> Experiment:
    """The experiment of a spec whose artifacts are those of unpacked bundles."""
    by_stage: dict[str, dict[int, Path]] = {"training": {}, "tuned": {}, "controls": {}}
    whole: dict[str, Path] = {}
    for folder, artifacts in parts:
        for stage, artifact in artifacts.items():
            if stage in ("baseline", "label likelihoods"):
                whole[stage] = folder / artifact
                continue
            kind, _, named = stage.partition(", seed ")  # without a seed: of a finished adapter
            seed = int(named or spec.seed)
            kind = "training" if kind == cost.named("training", seed, spec) else kind
            if seed in by_stage[kind]:
                raise ScoresError(f"{spec.id}: two bundles hold seed {seed}; pass each seed once")
            by_stage[kind][seed] = folder / artifact
    adapters, tuned, altered = (dict(sorted(folders.items())) for folders in by_stage.values())
    experiment = Experiment(spec, setting, list(adapters))
    known: dict[str, Any] = {"adapters": adapters, "tuned": tuned, "altered": altered}
    known |= {"baseline": whole["baseline"], "likelihoods": whole.get("label likelihoods")}
    vars(experiment).update(known)  # the values of its cached properties
    made = read_manifest(next(iter(adapters.values())))["identity"]
    vars(experiment.base)["identity"] = made["base"]
    _require_same_rows(experiment)
    return experiment


def _require_same_rows(experiment: Experiment) -> None:
    """Raise ScoresError if an answer belongs to other prompts or options, or an adapter to other training rows."""
    spec, examples = experiment.spec, experiment.examples
    now = predictions_identity(spec, {}, None, examples.held_out, "answers")
    for folder in (experiment.baseline, *experiment.tuned.values()):
        asked = read_manifest(folder)["identity"]
        if (asked["messages"], asked["generate"]) != (now["messages"], now["generate"]):
            raise ScoresError(
                f"{spec.id}: the answers belong to other prompts or another [generate] than those of this checkout; "
                f"measure again"
            )
    if spec.adapter:
        return
    rows = adapter_identity(spec, {}, examples.training, spec.seed, experiment.setting.root)["rows"]
    for seed, folder in experiment.adapters.items():
        if read_manifest(folder)["identity"]["rows"] != rows:
            raise ScoresError(f"{spec.id}: seed {seed} was trained on other rows than those here; measure again")
