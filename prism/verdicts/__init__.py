"""From answers to verdicts: scores with their intervals, controls, comparisons with accepted runs, the gate."""
