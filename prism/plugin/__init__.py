"""The pytest plugin: hooks, what a run knows, what it finds, and how it is spread over workers."""
