"""Answers brought home: what a run was told, in one file, to score it again where its models cannot run.

A bundle holds a run's results.json and, of each spec, the answers, the label likelihoods and how the adapters were made
(their manifests, without the weights). `rescore` reads several, which may be runs of other seeds of the same specs, and
measures and decides with the code, the rows and the specs of this checkout. Prompts and training rows must be those that
the answers belong to.
"""

from __future__ import annotations

import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from prism.errors import ScoresError, first_problem
from prism.experiment import Experiment
from prism.models import cost
from prism.models.identity import TRAINING_LIBRARIES, adapter_identity, predictions_identity
from prism.plugin import results
from prism.plugin.results import Results
from prism.setting import Setting
from prism.spec import PathName, Spec
from prism.store import MANIFEST, Store, read_manifest, sync
from prism.store.provenance import provenance
from prism.tasks.check import load_checked_spec
from prism.verdicts.record import Run

RESULTS = "results.json"
LARGEST = 2**31  # bytes of what a bundle holds; answers of 7,600 samples and five seeds take 20 MiB
ARTIFACT = re.compile(r"[a-z]+/[0-9a-f]{64}")  # in the store: no path that leads out of it


def _in_a_store(name: str) -> str:
    if not ARTIFACT.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is no artifact of a store")
    return name


class _Details(BaseModel):
    artifacts: dict[str, Annotated[str, AfterValidator(_in_a_store)]]


class _Measured(BaseModel):
    phase: PathName
    spec: PathName
    details: _Details


class _Machine(BaseModel, extra="allow"):
    gpus: list[Any]


class _Provenance(BaseModel, extra="allow"):
    machine: _Machine
    versions: dict[str, Any]
    python: str
    commit: str | None = None
    tree: str | None = None


class _Packed(BaseModel):
    """What `pack` reads of a run's results.json. Names become paths."""

    specs: Annotated[list[_Measured], Field(min_length=1)]


class _Results(_Packed):
    """What `rescore` reads besides, of a file that may be a stranger's."""

    id: str
    complete: bool
    partial: str
    provenance: _Provenance


def pack(run: Path, store: Store, out: Path) -> int:
    """Write the bundle of a run's folder to `out` (.tar.xz); return its bytes. The run's artifacts must be in `store`.

    Raises ScoresError if the run names none, or if the store no longer has one.
    """
    try:
        packed = _Packed.model_validate_json((run / RESULTS).read_bytes())
        named = {artifact for spec in packed.specs for artifact in spec.details.artifacts.values()}
        if not named:
            raise ValueError("it has no specs")
    except (OSError, ValueError) as error:
        raise ScoresError(
            f"{run}: names no answers ({_why(error)}); run the benchmarks again and pack that run"
        ) from None
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        store.bring(named)
        with tarfile.open(partial, "w:xz") as bundle:
            bundle.add(run / RESULTS, RESULTS)
            for artifact in sorted(named):
                folder = store.home / artifact
                if not (folder / MANIFEST).is_file():
                    raise ScoresError(f"{artifact}: is not in the store {store.name}; pass the --home of that run")
                for file in (MANIFEST, *sorted(path.name for path in folder.glob("*.jsonl"))):
                    bundle.add(folder / file, f"{artifact}/{file}")
        sync(partial)
        os.replace(partial, out)
        sync(out.parent)
    finally:  # an interruption or a full disk leaves no half
        partial.unlink(missing_ok=True)
    return out.stat().st_size


def rescore(bundles: Sequence[Path], setting: Setting, reports: Path, command: str) -> tuple[Run, Path]:
    """Score the answers of bundles again, and write the report of a new run; return it with its folder.

    Raises ScoresError if a file is no bundle, if two hold the same seed of a spec, or if prompts or training rows differ
    from those of this checkout.
    """
    with TemporaryDirectory() as temporary:
        folders = [Path(temporary) / str(n) for n in range(len(bundles))]
        runs = [_unpack(path, folder) for path, folder in zip(bundles, folders)]
        by_spec: dict[str, list[tuple[Path, dict[str, str]]]] = {}
        for folder, packed in zip(folders, runs):
            for measured in packed.specs:
                name = f"{measured.phase}/{measured.spec}"
                by_spec.setdefault(name, []).append((folder, measured.details.artifacts))
        run_id = results.new_id()
        saved = Results(reports, run_id, "main")
        for name, parts in by_spec.items():
            spec = load_checked_spec(setting.root / "benchmarks" / "specs" / f"{name}.toml")
            experiment = _answered(spec, setting, parts)
            outcome = experiment.outcome
            made = _identity(next(iter(experiment.adapters.values())), "engine")
            told = {**outcome.result.details, **made}
            decided = tuple(outcome.result.verdicts())
            saved.save(replace(outcome, result=replace(outcome.result, details=told, decided=decided)))
        found = saved.gather()
        verdict, reason = results.verdict(found, [], setting.required)
        here = provenance(setting.root, TRAINING_LIBRARIES)
        answered = [{"run": packed.id, **_origin(packed.provenance)} for packed in runs]
        first = runs[0].provenance.model_dump()
        whole = all(packed.complete for packed in runs)
        run = Run(
            id=run_id,
            results=found,
            complete=whole,
            partial="" if whole else "; ".join(packed.partial for packed in runs if packed.partial),
            verdict=verdict,
            reason=reason,
            command=command,
            provenance={**here, **{key: first[key] for key in ("versions", "machine", "python")}, "answered": answered},
        )
        return run, saved.publish(run, setting.store)


def _origin(known: _Provenance) -> dict[str, Any]:
    return {"commit": known.commit, "tree": known.tree, "gpus": known.machine.gpus}


def _why(error: Exception) -> str:
    """The reason of an error in one line; pydantic's has several."""
    return first_problem(error) if isinstance(error, ValidationError) else repr(error)


def _unpack(path: Path, folder: Path) -> _Results:
    try:
        with tarfile.open(path) as bundle:
            size = 0
            for member in bundle:  # each before the next is read: a bomb is refused by its first part
                size += member.size
                if size > LARGEST:
                    raise ValueError(f"it holds over {LARGEST / 2**30:g} GiB")
                bundle.extract(member, folder, filter="data")
        return _Results.model_validate_json((folder / RESULTS).read_bytes())
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error, ValueError, KeyError) as error:
        raise ScoresError(f"{path}: is no bundle of answers ({_why(error)}); make one with prism bundle") from None


def _identity(folder: Path, *keys: str) -> dict[str, Any]:
    """What made an unpacked artifact, by key. Raises ScoresError if the bundle does not say so."""
    try:
        identity = read_manifest(folder)["identity"]
        return {key: identity[key] for key in keys}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        name = f"{folder.parent.name}/{folder.name[:8]}"
        raise ScoresError(
            f"{name}: its manifest in the bundle cannot be used ({error!r}); pack that run again"
        ) from None


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
            seed = int(named) if named.isdecimal() and len(named) < 20 else spec.seed
            kind = "training" if kind == cost.named("training", seed, spec) else kind
            if kind not in by_stage:
                raise ScoresError(
                    f"{spec.id}: a bundle names answers of {stage!r}, which no run has; pack that run again"
                )
            if seed in by_stage[kind]:
                raise ScoresError(f"{spec.id}: two bundles hold seed {seed}; pass each seed once")
            by_stage[kind][seed] = folder / artifact
    adapters, tuned, altered = (dict(sorted(folders.items())) for folders in by_stage.values())
    experiment = Experiment(spec, setting, list(adapters))
    if not adapters or adapters.keys() != tuned.keys() or "baseline" not in whole:
        raise ScoresError(f"{spec.id}: a bundle lacks the adapter, its answers or the baseline's; pack that run again")
    known: dict[str, Any] = {"adapters": adapters, "tuned": tuned, "altered": altered}
    known |= {"baseline": whole["baseline"], "likelihoods": whole.get("label likelihoods")}
    vars(experiment).update(known)  # the values of its cached properties
    vars(experiment.base)["identity"] = _identity(next(iter(adapters.values())), "base")["base"]
    _require_same_rows(experiment)
    return experiment


def _require_same_rows(experiment: Experiment) -> None:
    """Raise ScoresError if an answer belongs to other prompts or options, or an adapter to other training rows."""
    spec, examples = experiment.spec, experiment.examples
    now = predictions_identity(spec, {}, None, examples.held_out, "answers")
    for folder in (experiment.baseline, *experiment.tuned.values()):
        if _identity(folder, "messages", "generate") != {key: now[key] for key in ("messages", "generate")}:
            raise ScoresError(
                f"{spec.id}: the answers belong to other prompts or another [generate] than those of this checkout; "
                f"measure again"
            )
    if spec.adapter:
        return
    rows = adapter_identity(spec, {}, examples.training, spec.seed, experiment.setting.root)["rows"]
    for seed, folder in experiment.adapters.items():
        if _identity(folder, "rows")["rows"] != rows:
            raise ScoresError(f"{spec.id}: seed {seed} was trained on other rows than those here; measure again")
