"""Tasks: how a row becomes messages, how an answer is read, which metrics judge it. One module a phase, no registry.

A task module offers:

- `COLUMNS`: the columns it reads; a spec's `[data].columns` maps other names onto them.
- `VERSION`: raise it when the same rows give other questions or the same answers another reading.
- `example(row, id)`: the `Example` asked of the model; raises DataError naming the value that it cannot use.
- `METRICS`: the metrics, each with its tier. They see the raw answers.
- `JUDGED`: what a judge grades, as `prism.judge.Definition`s; their metrics are tier 3 (optional).
- `rows(row, spec)`: the rows that a row as published stands for, where it holds several questions (optional).
- `CONTROLS`: control's name to a function of (example, all held-out examples) that returns the example as the tuned
  model is asked it besides: without its evidence, with another's (optional).
- `FIXED`: control's name to the one answer that it gives to every question (optional).
- `details(examples, answers)`: tables for the report (optional).
- `failures(examples, baseline, tuned)`: the patterns in which predictions fail, for the report (optional).
- `LABELS` and `parse(answer)`, where the answer is one of a closed set: switches on the classical and the
  label-likelihood controls.
"""
