"""One spec from its rows to its `Result`, without pytest: baseline first, fine-tune second, measure everything third.

Each stage is made once, when it is first asked for. What the store has is not computed again, and then no model library
is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from prism.judge import Case, Definition, Grade, tier3
from prism.metrics import Metric, semantic
from prism.models import asking, cost, embeddings, window
from prism.models.identity import adapter_identity, training_side
from prism.models.lazy import BATCH, LazyBase
from prism.report.details import details, enriched, of_leaks
from prism.rows import Example, Prediction, remembered
from prism.rows.answers import read_likelihoods, read_predictions
from prism.rows.remembered import Examples, Training
from prism.setting import Setting
from prism.spec import Spec
from prism.store import digest, read_manifest, uses
from prism.store.provenance import source_tree
from prism.tasks import load_task
from prism.verdicts import alarms, callouts, contenders, controls, looks
from prism.verdicts.kept import Kept
from prism.verdicts.record import Record, Result
from prism.verdicts.reliability import reliability
from prism.verdicts.scores import Scores, evaluation_digest, measured
from prism.verdicts.scoring import cost_records, score, score_without, unjudged
from prism.verdicts.scoring import samples as list_samples


@dataclass(frozen=True)
class Outcome:
    """What was measured and decided: the result, its held-out samples for the reports, its scores for later runs."""

    result: Result
    samples: list[dict[str, Any]]
    scores: Scores


class Experiment:
    """One spec and the training seeds that it is measured with."""

    def __init__(self, spec: Spec, setting: Setting, seeds: Sequence[int], examples: Examples | None = None) -> None:
        self.spec, self.setting, self.seeds, self._read = spec, setting, list(seeds), examples
        self.task = load_task(spec)
        self.clock = cost.Clock(spec.id)
        self.base = LazyBase(spec, setting.root, setting.store.home, setting.screen, setting.models, self.clock)

    @cached_property
    def examples(self) -> Examples:
        spec, setting = self.spec, self.setting
        if self._read:  # by another experiment with the same rows
            return self._read
        if spec.semantic:  # so that a missing model is reported first
            embeddings.model_identity(spec.semantic.model, setting.root, setting.screen.say)
        home, screen = setting.store.home, setting.screen
        uses.fetch(setting.store, self._named)
        with self.clock("rows"):
            return remembered.examples(spec, self.task, setting.root, setting.data, home, screen, setting.remember)

    @property
    def _named(self) -> dict[str, Any]:
        """What an experiment is known by before anything of it is."""
        return {"spec": self.spec.model_dump(mode="json", exclude={"folder"}), "seeds": self.seeds}

    # Adapters

    def adapter(self, seed: int) -> Path:
        """The folder of one adapter: trained on the training rows, or the finished one that the spec names."""
        spec, setting, training = self.spec, self.setting, self.examples.training
        identity = adapter_identity(spec, self.base.identity, training, seed, setting.root)

        def work(folder: Path) -> dict[str, Any]:
            with self.clock(cost.IMPORTS):
                from prism.models import adapters, parity, resuming

                if not spec.adapter:
                    from prism.models import launch, train

            stage = cost.named("training", seed, spec)
            fitting = self.base.fitting(training, self.examples.held_out)
            with self.clock("checks of the adapter"):
                before = None if spec.adapter else parity.untouched(self.base.load(), fitting.askable)
            with self.clock.stage(stage, BATCH) as notes:
                steps = 0 if spec.adapter else train.steps(spec, len(fitting.kept))
                with setting.screen.progress(f"{spec.id}: {stage}", steps) as advance:
                    if spec.adapter:
                        notes |= adapters.take(self.base.load(), spec.adapter, setting.root, folder)
                    else:
                        told = advance, setting.track.losses(folder.stem, spec, seed), setting.store.keep
                        notes |= (
                            launch.train(self.base.load(), fitting.kept, seed, folder, *told, probed=fitting.askable)
                            | fitting.notes
                        )
                with self.clock("checks of the adapter"):
                    asked = fitting.askable, self.examples.held_out
                    found = notes["parity"] = parity.check(self.base.load(), folder, *asked, before)
                resuming.discard_checkpoints(folder)
                self.base.free(kept=found.get("restored") is True)
            return notes

        return setting.make("adapters", identity, work, again=setting.retrain)

    @cached_property
    def adapters(self) -> dict[int, Path]:
        """The folder of each seed's adapter. The baseline is measured before training, while the base is loaded."""
        if not self.spec.adapter:
            _ = self.baseline, self.likelihoods
        return {seed: self.adapter(seed) for seed in self.seeds}

    # Answers

    @cached_property
    def baseline(self) -> Path:
        """The untuned model's answers."""
        if self.spec.adapter:  # one that cannot be used is refused before anything is measured
            _ = self.adapters
        return self.answers(self.examples.held_out, None, "baseline")

    @cached_property
    def tuned(self) -> dict[int, Path]:
        """The tuned model's answers, by training seed; the base is freed with the first adapter, so it comes before."""
        held_out, _ = self.examples.held_out, (self.baseline, self.likelihoods)
        return {
            seed: self.answers(held_out, folder, cost.named("tuned", seed, self.spec))
            for seed, folder in self.adapters.items()
        }

    @cached_property
    def altered(self) -> dict[int, Path]:
        """The tuned model's answers to questions whose evidence a control took away or changed, by training seed."""
        asked = [example for examples in self.asked_by_control.values() for example in examples]
        if not asked:
            return {}
        return {
            seed: self.answers(asked, folder, cost.named("controls", seed, self.spec))
            for seed, folder in self.adapters.items()
        }

    @cached_property
    def asked_by_control(self) -> dict[str, list[Example]]:
        """The held-out examples as each control asks them, under ids of their own."""
        held_out, altering = self.examples.held_out, self.task.controls.items()
        return {name: [replace(alter(e, held_out), id=f"{e.id}/{name}") for e in held_out] for name, alter in altering}

    @cached_property
    def likelihoods(self) -> Path | None:
        """The untuned model's likelihood of each label; None if the task's answers are not a closed set."""
        if not self._labels:
            return None
        return asking.likelihoods(self.base, self.setting.make, self.examples.held_out, self._labels)

    @property
    def _labels(self) -> Sequence[str]:
        """The labels whose likelihoods are measured."""
        return () if self.spec.image else self.task.labels  # they would be asked without the image

    def answers(self, asked: Sequence[Example], adapter: Path | None, what: str) -> Path:
        """The folder of the answers to `asked`, by the base or by an adapter; `what` names the stage."""
        if adapter:
            return asking.tuned(self.base, self.setting.make, asked, adapter, what)
        # Rows that cannot be trained on are refused before anything is measured.
        ready = partial(self.base.fitting, self.examples.training, self.examples.held_out)
        return asking.baseline(self.base, self.setting.make, asked, self._labels, what, ready)

    def judged(self) -> tuple[list[Definition], list[Case]]:
        """What a judge is asked: by which definitions, and the baseline's and every seed's answers."""
        held_out = self.examples.held_out
        answers = [[p.answer for p in read_predictions(f, held_out)] for f in (self.baseline, *self.tuned.values())]
        return tier3.definitions(self.spec, self.task.judged), tier3.cases(held_out, answers, self.task.is_judged)

    @cached_property
    def grades(self) -> dict[Definition, list[Grade]]:
        """A judge's grades of all answers; empty if no judge was asked for. A task of a cluster may have put them here."""
        setting, judge = self.setting, self.setting.judge
        return tier3.grade_all(*self.judged(), judge, setting.store, setting.screen, self.spec.id) if judge else {}

    # Scores and verdicts

    @cached_property
    def outcome(self) -> Outcome:
        """Everything measured and every threshold decided."""
        _ = self.tuned, self.altered, self.grades  # all answers, before the base is freed
        self.base.leave()
        with self.clock("scores and verdicts"):
            decided = self._decided()
        uses.note(self.setting.store, self._named)
        return decided

    def _decided(self) -> Outcome:
        spec, setting, held_out = self.spec, self.setting, self.examples.held_out
        untuned = read_predictions(self.baseline, held_out)
        tuned = {seed: read_predictions(folder, held_out) for seed, folder in self.tuned.items()}
        before = [prediction.answer for prediction in untuned]
        after = {seed: [prediction.answer for prediction in predictions] for seed, predictions in tuned.items()}
        trained = window.trained(self.adapters, self.examples.training)
        beside, calibration = self._controls(trained)
        metrics, evaluation = self._metrics([before, *after.values()])
        spent = self._spent()
        given = {"of": [spec.id, spec.profile, spec.data.name or spec.data.path], "task": self.task.source}
        given |= {"evaluation": evaluation, "answers": digest([before, after, beside]), "grades": repr(self.grades)}
        kept = Kept(given, setting.remember)
        scored = kept.records("records", lambda: score(spec, metrics, held_out, evaluation, before, after, beside))
        records = [*scored, *unjudged(spec, evaluation, len(held_out), {record.metric for record in scored})]
        records += cost_records(spec, evaluation, len(held_out), spent)
        training = training_side(self.adapters, self.tuned, len(trained))
        reported = [metric for metric in metrics if metric.name in {record.metric for record in records if record.n}]
        known = kept.statistics(reported, held_out, list(after.values()))
        judges = tier3.judges(self.grades, setting.judge)
        scores = measured(spec, records, held_out, after, metrics, training, judges, known)
        looks.record(scores, setting.store)
        share = alarms.share(setting.root, spec.profile, scores, setting.alarms, setting.store)
        unfit = tier3.unfit(spec, tier3.definitions(spec, self.task.judged), setting.judge, setting.store)

        first = next(iter(after))
        samples = self._samples(kept, metrics, before, after[first])
        by_sample = {example.id: [part[i] for part in after.values()] for i, example in enumerate(held_out)}

        judging = {"unfit": unfit, "required": list(setting.required), "base": self.base.digest}
        records, reference = kept.verdicts(
            spec, setting.root, records, scores, metrics, share, samples, by_sample, **judging
        )
        shown = {"baseline": before, "tuned": after[first]}
        shown |= {name: part[first] if isinstance(part, Mapping) else part for name, part in beside.items()}
        further: dict[str, Any] = {
            "answers": {name: self._tables(evaluation, answers) for name, answers in shown.items()},
            "calibration": calibration,
            "judge": tier3.details(self.grades, unfit, setting.judge, setting.store),
            "leaks": self._leaks_shown(kept, metrics, evaluation, before, after),
            "artifacts": {stage: f"{folder.parent.name}/{folder.name}" for stage, folder in self.stages.items()},
            "tree": source_tree(setting.root),
        }
        if self.task.failures:
            further["failures"] = self._failures(evaluation, untuned, tuned[first])
        known_nothing = contenders.identity(spec, evaluation, trained, shown) | {"task": self.task.source}
        meet = partial(contenders.found, spec, self.task, trained, held_out, evaluation, shown)
        further["contenders"] = setting.remember(known_nothing, meet)
        further["callouts"] = callouts.found(records, further, metrics, untuned, tuned[first])
        further |= {"reference": reference} if reference else {}
        told = details(spec, trained, held_out, self.adapters, self.base.identity, evaluation)
        spent["clock"] = self.clock.read()
        result = Result(spec.phase, spec.name, spec.title, spec.profile, tuple(records), told | further, spent)
        setting.track.scores(result)
        return Outcome(result, samples, scores)

    def _metrics(self, answers: Sequence[Sequence[str]]) -> tuple[list[Metric], str]:
        """The task's, the spec's and the judge's metrics of these answers, and the digest of the evaluation."""
        task, held_out = self.task, self.examples.held_out
        own = [*task.metrics, *self._similarity(answers)]
        judged = [tier3.metric(d, grades, held_out, answers, task.is_judged) for d, grades in self.grades.items()]
        return [*own, *judged], evaluation_digest(self.spec, task.version, held_out, own)

    def _controls(self, trained: Training) -> tuple[dict[str, controls.Answers], dict[str, Any]]:
        """The answers that stand beside the tuned ones, by control, and how well label likelihoods are calibrated."""
        held_out, task = self.examples.held_out, self.task
        altered = {
            name: {seed: [said.answer for said in read_predictions(folder, e)] for seed, folder in self.altered.items()}
            for name, e in self.asked_by_control.items()
        }
        stated = read_likelihoods(self.likelihoods, held_out) if self.likelihoods else []
        beside = controls.beside(altered, task, stated, trained, held_out, self.setting.remember)
        gold = [example.reference for example in held_out]
        return beside, {"baseline": reliability(stated, gold)} if stated else {}

    def _similarity(self, answers: Sequence[Sequence[str]]) -> list[Metric]:
        """The metric `semantic_similarity` if the spec names a model for it; no pair is embedded twice."""
        if self.spec.semantic is None:
            return []
        pairs = sorted({(e.reference, answer) for said in answers for e, answer in zip(self.examples.held_out, said)})
        setting, name = self.setting, self.spec.semantic.model
        model, found = embeddings.stored_similarities(
            name, setting.root, pairs, setting.make, setting.screen, self.spec.id
        )
        return [semantic.metric(model, found)]

    def _samples(
        self, kept: Kept, metrics: Sequence[Metric], before: Sequence[str], after: Sequence[str]
    ) -> list[dict[str, Any]]:
        """What the reports show of each held-out sample."""
        held_out, task = self.examples.held_out, self.task

        def compute() -> list[Any]:
            lacking = [task.missing(held_out, answers) for answers in (before, after)] if task.missing else None
            return [list_samples(metrics, held_out, before, after), lacking]

        listed, lacking = kept.table("samples", compute)
        reasons = tier3.reasons(self.grades, held_out, task.is_judged) if self.grades else {}
        leaked = self.examples.leaks.by_id(self.examples.training, held_out)
        return enriched(listed, held_out, lacking, reasons, leaked)

    def _leaks_shown(
        self,
        kept: Kept,
        metrics: Sequence[Metric],
        evaluation: str,
        before: Sequence[str],
        after: Mapping[int, Sequence[str]],
    ) -> dict[str, Any]:
        """How many held-out samples leaked, and the scores without them; empty if the training rows are unknown."""
        if not self.examples.training:
            return {}
        held_out, found = self.examples.held_out, self.examples.leaks
        clean: list[Record] = []
        if found.leaked:
            without = partial(score_without, found.leaked, self.spec, metrics, held_out, evaluation, before, after)
            clean = kept.records("records without leaks", without, leaked=sorted(found.leaked))
        summary = found.summary(self.examples.training, held_out)
        return {**summary, **of_leaks(clean, self.spec.data.dedupe, self.examples.removed)}

    def _failures(self, evaluation: str, untuned: list[Prediction], tuned: list[Prediction]) -> dict[str, Any]:
        """In which ways answers fail, by the task's own patterns."""
        assert self.task.failures is not None
        answers = [self.baseline.name, self.tuned[self.seeds[0]].name]
        identity = {"kind": "failures", "evaluation": evaluation, "answers": answers, "task": self.task.source}
        return self.setting.remember(identity, partial(self.task.failures, self.examples.held_out, untuned, tuned))

    def _tables(self, evaluation: str, answers: Sequence[str]) -> dict[str, Any]:
        """The task's own tables of one set of answers."""
        identity = {"kind": "details", "evaluation": evaluation, "answers": digest(answers), "task": self.task.source}
        return self.setting.remember(identity, lambda: self.task.details(self.examples.held_out, answers))

    @property
    def stages(self) -> dict[str, Path]:
        """Every artifact of this experiment, by the name of the stage that made it."""
        stages = {"baseline": self.baseline}
        stages |= {"label likelihoods": self.likelihoods} if self.likelihoods else {}
        for stage, folders in {"training": self.adapters, "tuned": self.tuned, "controls": self.altered}.items():
            stages |= {cost.named(stage, seed, self.spec): folder for seed, folder in folders.items()}
        return stages

    def _spent(self) -> dict[str, Any]:
        cached = [name for name, folder in self.stages.items() if folder not in self.setting.made]
        return cost.summary({name: read_manifest(folder)["notes"] for name, folder in self.stages.items()}, cached)
