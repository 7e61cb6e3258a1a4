"""Faults on purpose: kills, flipped bits, full disks, files of strangers. docs/promises.md says what survives what."""
