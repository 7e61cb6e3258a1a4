"""The pytest plugin: hooks, the session of a run, its results, and its distribution over workers."""
