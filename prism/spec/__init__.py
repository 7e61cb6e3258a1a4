"""Spec files, one experiment each: their schema, and how they are read."""

from prism.spec.files import find_phases, find_specs, load_spec
from prism.spec.schema import PROFILES, Data, Image, Launch, Limit, Model, PathName, Spec, Split, threshold_id

__all__ = [
    "PROFILES",
    "Data",
    "Image",
    "Launch",
    "Limit",
    "Model",
    "PathName",
    "Spec",
    "Split",
    "find_phases",
    "find_specs",
    "load_spec",
    "threshold_id",
]
