"""What the demo can be asked, and its answers: specs with adapters, one loaded base, the report of each spec."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from prism.errors import DataError, ModelError
from prism.models.identity import adapter_identity
from prism.models.lazy import LazyBase
from prism.plugin.scheduling import choose_profile, lacking
from prism.report import words
from prism.rows import Example
from prism.rows.examples import load_examples
from prism.rows.images import prepare, read_source
from prism.setting import Setting
from prism.spec import Spec, find_specs
from prism.store import read_manifest
from prism.tasks import load_task
from prism.tasks.check import load_checked_spec

if TYPE_CHECKING:
    from prism.models.streaming import Said, Voices

CHARACTERS = 4_000  # of a question
UPLOAD_MIB = 8
TRAINED_BY = ("seed", "versions", "path", "engine")  # what an adapter's identity says besides what it is for


@dataclass
class Offer:
    """A spec that can be asked here: its base, its adapters by the name that people choose, its evaluation set."""

    spec: Spec
    base: LazyBase
    adapters: Mapping[str, Path]
    held_out: Sequence[Example]

    @property
    def model(self) -> tuple[str, ...]:
        """What two specs share if one loaded model can answer both."""
        loaded = self.spec.model.model_dump(exclude={"max_seq_length", "revision", "measured_with"})
        asked = (self.spec.template, bool(self.spec.image), self.spec.sft.get("use_cpu"))
        return tuple(map(repr, (self.base.identity, loaded, *asked)))

    @cached_property
    def around(self) -> tuple[str, str]:
        """What the task writes before and after every question: what all of the evaluation set begin and end with."""
        questions = [example.question for example in self.held_out]
        before = os.path.commonprefix(questions)
        before = before[: max(before.rfind(end) + len(end) if end in before else 0 for end in ("\n", "? ", ": "))]
        rest = [question[len(before) :][::-1] for question in questions]
        after = os.path.commonprefix(rest)[::-1]
        return before, after[after.index("\n") :] if "\n" in after else ""

    def typed(self, example: Example) -> str:
        """The part of a question that people type."""
        before, after = self.around
        return example.question[len(before) : len(example.question) - len(after)]

    def asked(self, place: int, question: str, picture: Path | None) -> Example:
        """The evaluation set's example at `place` with another question and picture, and with its other messages."""
        example = self.held_out[place]
        before, after = self.around
        messages = (*example.messages[:-1], {**example.messages[-1], "content": before + question.strip() + after})
        return replace(example, messages=messages, images=(picture,) if picture else ())

    def is_example(self, place: int, question: str, upload: str | None) -> bool:
        """Whether this is the evaluation set's example at `place` as it stands, with its own picture."""
        example = self.held_out[place]
        pictures = [Path(upload).read_bytes()] if self.spec.image and upload else []
        same = pictures == [picture.read_bytes() for picture in example.images]
        return same and question.strip() == self.typed(example).strip()


@dataclass(eq=False)  # so that its reports can be cached
class Stage:
    """The offers, and the one base that is loaded."""

    offers: Mapping[str, Offer]
    setting: Setting
    reports: Path
    loading: threading.Lock = field(default_factory=threading.Lock)
    _loaded: tuple[tuple[str, ...], Voices] | None = None

    def voices(self, offer: Offer) -> Voices:
        """The offer's base, loaded; the one before it is freed if that is another."""
        with self.loading:
            if self._loaded is None or self._loaded[0] != offer.model:
                from prism.models.streaming import Voices

                self._loaded = None
                loaded = Voices(offer.base.load())
                offer.base.free()  # which would keep it
                self._loaded = (offer.model, loaded)
            return self._loaded[1]

    def answers(self, name: str, adapter: str, question: str, upload: str | None, place: int) -> Iterator[list[Any]]:
        """The answers of the base and of an adapter as they grow, what both were asked, and the reference of that.

        `place` is that of the example that was chosen; asked otherwise than it stands there, there is no reference.
        Raises DataError for a question or picture that is refused.
        """
        offer = self.offers[name]
        spec = offer.spec
        if not question.strip():
            raise DataError("there is no question; type one, or choose an example")
        if len(question) > CHARACTERS:
            raise DataError(
                f"the question has {len(question):,} characters, and {CHARACTERS:,} are the most; shorten it"
            )
        if spec.image and not upload:
            raise DataError(f"{spec.id} asks about pictures; add one, or choose an example")
        voices = self.voices(offer)
        with TemporaryDirectory() as folder:
            picture = _picture(spec, upload, Path(folder)) if spec.image and upload else None
            example = offer.asked(place, question, picture)
            prompt = "\n\n".join(f"{message['role']}: {message['content']}" for message in example.messages)
            reference = example.reference if offer.is_example(place, question, upload) else ""
            for base, tuned in voices.ask(spec, example, [None, offer.adapters[adapter]]):
                yield [base.text, _spent(base), tuned.text, _spent(tuned), prompt, reference]

    @lru_cache(maxsize=64)  # noqa: B019  # as long as the server
    def report(self, name: str) -> str:
        """What the newest report says of a spec, as an HTML page; empty if no run has measured it."""
        anchor = name.replace("/", "-")
        for samples in sorted(self.reports.glob(f"runs/[0-9]*/samples/{anchor}.jsonl"), reverse=True):
            file = samples.parent.parent / "report.html"
            written = file.read_text(encoding="utf-8") if file.is_file() else ""
            head, _, rest = written.partition("<body>")
            _, found, section = rest.partition(f'<section id="{anchor}"')
            if found:
                head += "<style>body { padding-bottom: 0 } section { margin: 0; padding: 0; border: 0 }</style>"
                return f"{head}<body>{found}{section.partition('</section>')[0]}</section></body></html>"
        return ""


def _picture(spec: Spec, upload: str, folder: Path) -> Path:
    """An uploaded picture as the spec's models see pictures. Raises DataError if it cannot be used."""
    assert spec.image is not None
    content = Path(upload).read_bytes()
    if len(content) > UPLOAD_MIB * 2**20:
        raise DataError(
            f"the picture has {len(content) / 2**20:.1f} MiB, and {UPLOAD_MIB} are the most; make it smaller"
        )
    source = read_source({"bytes": content, "path": "upload"}, folder, "your picture")
    return prepare(source, spec.image, folder, "your picture")


def _spent(said: Said) -> str:
    if said.first is None:
        return "…"
    told = f"{words.count(said.tokens, 'token')} · first after {said.first:.2f} s · {said.seconds:.2f} s"
    return told if said.finished else f"{told} …"


def offers(setting: Setting, only: str | None = None, adapter: Path | None = None) -> dict[str, Offer]:
    """What can be asked here: the specs of this machine's profile, or one, that have adapters in the store, by id.

    `adapter` is a folder besides those of the store, for the spec `only`. Raises PrismError if there is nothing to ask.
    """
    if adapter is not None and only is None:
        raise ModelError(f"--adapter {adapter}: say which spec's questions it answers with --spec PHASE/NAME")
    known = [load_checked_spec(path) for path in find_specs(setting.root / "benchmarks" / "specs")]
    profile, _ = choose_profile(None)
    chosen = [spec for spec in known if spec.id == only or (only is None and spec.profile == profile)]
    if only and not chosen:
        raise ModelError(f"--spec {only}: no such spec; `prism specs` lists those that exist")
    if only and (why := lacking(chosen[0], setting.root, setting.data)):
        raise ModelError(f"--spec {only}: cannot be asked here: {why}")
    found = {}
    for spec in chosen:
        if lacking(spec, setting.root, setting.data):
            continue
        training, held_out = _rows(spec, setting)
        base = LazyBase(spec, setting.root, setting.store.home, setting.screen, setting.models)
        made = adapter_identity(spec, base.identity, training, spec.seed, setting.root)
        setting.store.find("adapters", made)  # of storage that others share, the one of this recipe
        fitting = {
            f"seed {identity['seed']} · {folder.name[:8]}"
            if "seed" in identity
            else f"finished · {folder.name[:8]}": folder
            for folder, identity in sorted(_stored(setting).items(), key=lambda one: one[1].get("seed", 0))
            if _purpose(identity) == _purpose(made) and setting.store.find("adapters", identity)
        }
        if adapter is not None:
            fitting = {adapter.name: adapter, **fitting}
        if fitting:
            found[spec.id] = Offer(spec, base, fitting, held_out)
    if not found:
        named = only or f"profile {profile}"
        raise ModelError(
            f"{setting.store.name}: holds no adapter for {named}; train one with "
            f"`pytest benchmarks{f' --prism-spec {only}' if only else ''}`, or pass --adapter DIR --spec PHASE/NAME"
        )
    return found


def _rows(spec: Spec, setting: Setting) -> tuple[list[Example], list[Example]]:
    pictures, say = setting.store.home / "images", setting.screen.say
    return load_examples(spec, load_task(spec), setting.root, setting.data, pictures=pictures, say=say)


def _purpose(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key not in TRAINED_BY}


def _stored(setting: Setting) -> dict[Path, dict[str, Any]]:
    """The identity of every adapter in the store that can be read."""
    found = {}
    for folder in (setting.store.home / "adapters").glob("*/"):
        try:
            found[folder] = read_manifest(folder)["identity"]
        except (OSError, ValueError, KeyError, AttributeError):
            continue  # made right now, or damaged
    return found


def take(stage: Stage, offer: Offer, adapter: Path, folder: Path) -> Path:
    """A finished adapter under `folder`, as the store would keep it. Raises ModelError if it does not fit the base."""
    from prism.models import adapters

    voices, copy = stage.voices(offer), folder / adapter.name.replace(".", "-")
    copy.mkdir()
    adapters.take(voices.base, str(adapter), stage.setting.root, copy)
    voices.require_fit(copy)
    return copy
