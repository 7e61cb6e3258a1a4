"""Loads, trains and queries models, and measures the cost. Only this package imports model libraries."""
