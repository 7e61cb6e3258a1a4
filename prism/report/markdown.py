"""report.md, for a pull request or a GitHub job summary: verdict first, then evidence, with provenance collapsed.

GitHub renders Markdown, HTML, @mentions, #issues and links anywhere, and a model's answer may contain any of them:
questions and answers go into code spans, and all other text is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from prism.report import callouts, findings, tables, vision, words
from prism.report.samples import Change, Sample, without_shared_prefix
from prism.report.tables import Table
from prism.untrusted import visible
from prism.verdicts.record import Result, Run

STATES = {
    "holds": "✅ holds",
    "fails": "❌ fails",
    "inconclusive": "⚠️ inconclusive",
    "not_comparable": "⚠️ not comparable",
    "skipped": "⏭️ skipped",
}
EXAMPLES = 5
CHARACTERS = 160
LONGEST = 60_000  # bytes; GitHub refuses a comment of more than 65,536 characters
FOLDED = "<details>"
WIDE = 80
MISSING = "missing terms"
JOINER = "&#8288;"  # an invisible word joiner: GitHub does not link the name or number after it


def render(run: Run, changes: Mapping[str, Sequence[Change]]) -> str:
    """The whole page."""
    head = _verdict(run)
    blocks = []
    for phase, results in findings.by_phase(run.results).items():
        blocks += _phase(phase, results, changes, run)
    blocks += _cost(run)
    blocks.append(details("Provenance", [table(tables.provenance(run)), *_facts(run)]))
    return _fitted(head, blocks)


def _fitted(head: Sequence[str], blocks: Sequence[str]) -> str:
    """The page, short enough for a comment: drop the longest collapsed parts first, then blocks from the end."""
    kept = list(blocks)
    while (page := _page(head, kept, len(blocks) - len(kept))) and len(page.encode()) > LONGEST and kept:
        folded = [i for i, block in enumerate(kept) if block.startswith(FOLDED)]
        del kept[max(folded, key=lambda i: len(kept[i])) if folded else -1]
    return page


def _page(head: Sequence[str], blocks: Sequence[str], left_out: int) -> str:
    parts = words.count(left_out, "part")
    note = f"✂️ Cut to the length of a GitHub comment: {parts} left out; report.html has everything."
    return "\n\n".join([*head, *([note] if left_out else []), *blocks]) + "\n"


def _verdict(run: Run) -> list[str]:
    mark = "✅ PASS" if run.verdict == "pass" else "❌ FAIL"
    partial = "" if run.complete else f" · ⚠️ PARTIAL: {prose(run.partial)}"
    counted = " · ".join(f"{STATES[state]}: {n}" for state, n in findings.counts(run).items())
    titled = "" if run.title == Run.title else f" · {prose(run.title)}"
    head = [f"# {mark}{titled}: {prose(run.reason)}{partial}", *([counted] if counted else [])]
    head += [_list(f"⚠️ {prose(line)}" for line in callouts.of_run(run))]
    return [*filter(None, head), " · ".join([code(run.command, 300), *filter(None, [prose(findings.commit(run))])])]


def _phase(phase: str, results: Sequence[Result], changes: Mapping[str, Sequence[Change]], run: Run) -> list[str]:
    blocks = [f"## {prose(phase)}"]
    if any(result.records for result in results):
        blocks.append(table(tables.metrics(results)))
    lower = any(record.direction == "lower" for result in results for record in result.records)
    if lower:
        blocks.append("<sub>↓ lower is better; a positive gain is always an improvement.</sub>")
    for result in results:
        blocks += _spec(result, changes.get(result.id, ()), run)
    return blocks


def _spec(result: Result, changes: Sequence[Change], run: Run) -> list[str]:
    blocks = [f"### {prose(result.title or result.spec)}", prose(" · ".join([result.id, *findings.sizes(result)]))]
    if met := callouts.contenders(result):
        blocks.append(f"{'⚠️ ' if met[0] else ''}{prose(met[1])}.")
    if worse := callouts.of_spec(result, run):
        blocks.append(_list(f"⚠️ {prose(line)}" for line in worse))
    beaten = findings.beaten(result)
    if beaten:
        blocks.append(f"Has it beaten the classical control? **{beaten[0]}**: {prose(beaten[1])}.")
    points = findings.open_points(result)
    if points:
        blocks.append(
            _list(f"{STATES[point.state]}: **{prose(point.about)}**: {prose(point.text)}" for point in points)
        )
    provisional = findings.provisional(result)
    if provisional:
        blocks.append("Provisional thresholds, taken from a source and not measured yet:")
        blocks.append(_list(f"**{prose(point.about)}**: {prose(point.text)}" for point in provisional))
    if findings.notes(result):
        blocks.append(" ".join(map(prose, findings.notes(result))))
    return blocks + _against_accepted(result) + _flips(result, changes) + _evidence(result)


def _against_accepted(result: Result) -> list[str]:
    """The comparison with the accepted run: losses, differences of the training sides, samples that flipped."""
    shown = tables.against_accepted(result)
    if shown is None:
        return []
    file = str(result.details["reference"]["file"])
    blocks = [prose(findings.against_accepted(result)).replace(prose(file), code(file)), table(shown)]
    if different := tables.differences(result):
        blocks.append(details("How the training side differs from that of the accepted run", [table(different)]))
    for way, samples in tables.flipped(result):
        keys = ("id", "question", "reference", "tuned")
        rows = [[str(sample.get(key) or "") for key in keys] for sample in without_shared_prefix(samples)]
        blocks.append(
            details(way, [table(Table(["id", "question", "expected", "tuned"], rows, numbers=4), escape=code)])
        )
    return blocks


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _flips(result: Result, changes: Sequence[Change]) -> list[str]:
    if not changes:
        return []
    first = changes[0]
    blocks = [table(tables.flips(changes))]
    if first.worse:
        shown = first.worse[:EXAMPLES]
        summary = f"{first.names[1]} by {first.metric}: {len(shown)} of {len(first.worse):,}"
        where = f"All samples: {code(f'samples/{result.phase}-{result.spec}.jsonl')}"
        blocks.append(details(summary, [table(_examples(shown), escape=code), where]))
    return blocks


def _examples(samples: Sequence[Sample]) -> Table:
    headers = ("id", "question", "reference", "baseline", "tuned")
    rows = [["" if s.get(key) is None else str(s[key]) for key in headers] for s in without_shared_prefix(samples)]
    if any(s.get("missing") for s in samples):
        return Table((*headers, MISSING), [[*row, findings.missing(s)] for row, s in zip(rows, samples)], numbers=6)
    return Table(headers, rows, numbers=5)


def _evidence(result: Result) -> list[str]:
    """The tables behind the scores, each collapsed."""
    answers = tables.labelled(result)
    study = {
        "Parts of the model": vision.parts(result),
        "Visual tokens": vision.tokens(result),
        "Where LoRA is placed": vision.placements(result),
        "Attention on the picture, by layer": vision.attention(result),
    }
    found = (
        study
        | dict(vision.by_kind(result))
        | {
            "Know-nothing contenders, and the thresholds that they would pass": callouts.contenders_table(result),
            "Tuned answers by the published script's rules and by strict ones": vision.published(result),
            "Exact match by type of answer": tables.by_type(result),
            "How answers fail, baseline and tuned; an answer may fail in several ways": tables.failures(result),
            "Terms most often missing": tables.missed(result),
            "Confusion matrix, baseline → tuned": tables.confusion(answers),
            "Classes, baseline → tuned": tables.per_class(answers),
            "Seeds": tables.seeds(result),
            "Scores without leaked samples": tables.leaks(result),
            "Closest pairs of a held-out sample and a training row": tables.twins(result),
            "Parity of the stored adapter: a logit's largest difference, or the answers that differ": tables.parity(
                result
            ),
        }
    )
    blocks = [details(summary, [table(shown)]) for summary, shown in found.items() if shown]
    return [*blocks, *_worst(result)]


def _worst(result: Result) -> list[str]:
    """The worst answer of each failure pattern, with the baseline and tuned answers."""
    found = (result.details.get("failures") or {}).get("patterns", [])
    rows = [{**row["worst"][0], "pattern": row["pattern"]} for row in found if row["worst"]]
    if not rows:
        return []
    headers = ("pattern", "question", "reference", "baseline", "tuned")
    cells = [[visible(row[key], 200) for key in headers] + [findings.missing(row)] for row in rows]
    shown = Table((*headers, MISSING), cells, numbers=6)
    return [details("The worst answer of each pattern, by ROUGE-L", [table(shown, escape=code)])]


def _cost(run: Run) -> list[str]:
    shown = tables.cost(run.results)
    if shown is None:
        return []
    stored = any(result.cost.get("cached") for result in run.results)
    return [
        "## Cost",
        table(shown),
        *(["<sub>\\* from the store: the cost when it was made.</sub>"] if stored else []),
    ]


def _facts(run: Run) -> list[str]:
    blocks = []
    for result in run.results:
        shown = tables.facts(result)
        if shown.rows:
            blocks += [f"**{prose(result.id)}**", table(shown)]
    return blocks


def details(summary: str, blocks: Sequence[str]) -> str:
    """A collapsed part. The blank lines make GitHub render Markdown inside HTML."""
    inside = "\n\n".join(blocks)
    return f"{FOLDED}<summary>{inert(visible(summary))}</summary>\n\n{inside}\n\n</details>"


def table(shown: Table, escape: Callable[[str], str] | None = None) -> str:
    """A GitHub table; `escape` makes a cell safe, by default as prose."""
    from tabulate import tabulate

    escape = escape or prose
    rows = [
        [_cell(STATES.get(cell, "") if name == "verdict" else escape(cell)) for name, cell in zip(shown.headers, row)]
        for row in shown.rows
    ]
    align = ["left" if i < shown.numbers or name == "verdict" else "right" for i, name in enumerate(shown.headers)]
    headers = [_cell(prose(header)) for header in shown.headers]
    lines = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=align if rows else None)
    return lines if lines.index("\n") <= WIDE else _compact(lines)


def _compact(table: str) -> str:
    """Remove the padding: it makes no wide table easier to read, and GitHub limits comments to 65,536 characters."""
    header, rule, *rows = table.splitlines()
    return "\n".join(re.sub(r" +\|", " |", re.sub(r"\| +", "| ", line)) for line in (header, _rule(rule), *rows))


def _rule(rule: str) -> str:
    return re.sub("-{3,}", "---", rule)


def _cell(text: str) -> str:
    """Escape pipes, which end a cell even in a code span; GitHub removes the backslash."""
    return text.replace("|", "\\|")


def code(text: object, limit: int = CHARACTERS) -> str:
    """Untrusted text in a code span, where nothing renders; the fence is longer than any run of backticks in it."""
    shown = visible(text, limit).replace("\n", "↵")
    if not shown.strip():
        return "_empty_"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}"


def prose(text: object) -> str:
    """One line of text in which nothing renders: no emphasis, HTML, mention, issue number or link."""
    special = r"([\\`*~]|\[(?=\^)|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_]))"
    return inert(re.sub(special, r"\\\1", visible(text, 1000).replace("\n", " ")))


def inert(text: str) -> str:
    """The same for places where GitHub renders HTML but not Markdown, such as a summary."""
    shown = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"(?i)([@#]|\bgh-)(?=\w)", rf"\1{JOINER}", shown)
    return re.sub(r"(?i)(?:(?:https?|ftp):|www)(?=[/.])|(?:mailto|xmpp):", rf"\g<0>{JOINER}", shown)
