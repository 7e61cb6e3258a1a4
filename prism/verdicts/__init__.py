"""Turn answers into verdicts: scores with intervals, controls, comparisons with accepted runs, the gate."""
