"""Models: load, train, answer, and what each of these costs. Only here are model libraries imported."""
