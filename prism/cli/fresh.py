"""A run measured anew with seeds that nobody has seen, so that accepting it is no choice among results."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from prism.errors import ScoresError, SpecError
from prism.experiment import Experiment
from prism.models.identity import TRAINING_LIBRARIES
from prism.plugin import results
from prism.plugin.results import Results
from prism.plugin.scheduling import lacking, require
from prism.setting import Setting
from prism.spec import Spec
from prism.store.provenance import provenance
from prism.tasks.check import load_checked_spec
from prism.verdicts import looks
from prism.verdicts.accepted import accepted_for, gather_scores
from prism.verdicts.record import Run
from prism.verdicts.scores import Scores

FEWEST = 2  # seeds: one adapter's scores say nothing of the recipe, and its next adapter would fail against them
SEEDS = 2**32  # the range that NumPy takes


def measure_again(run: Path, setting: Setting, reports: Path, command: str, force: bool = False) -> Path:
    """Measure the specs of a run with as many new seeds, at least two, and publish it; return the new run's folder.

    Raises PrismError, before anything is trained, for what would keep the new run from being accepted.
    """
    planned = [(scores, _spec(scores, setting)) for scores in gather_scores(str(run), setting.root)]
    here = provenance(setting.root, TRAINING_LIBRARIES)
    if not force and (here["dirty"] is not False or not here["commit"]):  # None: git cannot say
        changed = "the working tree has uncommitted changes"
        unknown = "git cannot say whether the working tree has uncommitted changes"
        why = (changed if here["dirty"] else unknown) if here["commit"] else "there is no git commit to repeat it from"
        raise ScoresError(f"--fresh: {why}, so the new run could not be accepted; commit first, or add --force")
    for scores, _ in planned:
        judged = sorted({measure.judge for measure in scores.measures.values() if measure.judge})
        if judged and setting.judge is None:
            raise ScoresError(
                f"{scores.id}: was judged by {judged[0]}; name that judge with --judge to measure it again"
            )
    looks.require_writable(setting.store)
    run_id = results.new_id()
    saved = Results(reports, run_id, "main")
    for scores, spec in planned:
        seeds = draw(scores, spec, setting)
        setting.screen.say(f"{spec.id}: measured anew with the seeds {', '.join(map(str, seeds))}")
        experiment = Experiment(spec, setting, seeds)
        outcome = experiment.outcome
        experiment.base.free()
        looks.record(outcome.scores, setting.store, fresh=True)
        saved.save(replace(outcome, result=replace(outcome.result, decided=tuple(outcome.result.verdicts()))))
    found = saved.gather()
    verdict, reason = results.verdict(found, [], setting.required)
    return saved.publish(Run(run_id, found, True, "", verdict, reason, command, here), setting.store)


def _spec(scores: Scores, setting: Setting) -> Spec:
    path = setting.root / "benchmarks" / "specs" / f"{scores.id}.toml"
    spec = load_checked_spec(path)
    if spec.adapter:
        raise SpecError(
            f"{scores.id}: names a finished adapter, which no new seed trains again; accept its run without --fresh"
        )
    if why := lacking(spec, setting.root, setting.data):
        raise SpecError(f"{scores.id}: cannot be measured here: {why}")
    require(spec, setting.store.home)
    return spec


def draw(scores: Scores, spec: Spec, setting: Setting) -> list[int]:
    """As many seeds as the run has, and as the accepted run that it replaces, which neither these nor the store used."""
    old = accepted_for(scores, setting.root)
    known = {int(seed) for side in (scores, old) if side for seed in side.seeds}
    number = max(FEWEST, len(scores.seeds), len(old.seeds) if old else 0)
    return new_seeds(spec.seed, number, known | looks.seeds_seen(scores, setting.store))


def new_seeds(first: int, number: int, used: Collection[int]) -> list[int]:
    """The next seeds from `first` on that are not `used`: a run that was killed draws the same ones again."""
    free = (seed % SEEDS for seed in range(first, first + SEEDS) if seed % SEEDS not in used)
    return [next(free) for _ in range(number)]
