"""What a node has and sees. Only the standard library is imported: this is sent to nodes that may lack PRISM."""

from __future__ import annotations

from typing import Any


def probe(
    packages: list[str], code: tuple[str, str], checkout: tuple[str, str], token: str, folders: list[str]
) -> dict[str, Any]:
    """Look around on a node, as plain JSON types.

    Of the machine where the tests run: `code` is the folder that has `prism/` and the digest of PRISM's code, `checkout`
    the folder of the benchmarks and the digest of their files, `token` a file in the store, `folders` what else is read.
    """
    import importlib.metadata
    import os
    import platform
    import sys
    from pathlib import Path

    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found = {
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": versions,
        "home": os.environ.get("PRISM_HOME") or "~/.cache/prism",
        "sees_checkout": False,
        "sees_store": bool(token) and Path(token).is_file(),
        "lacks": [folder for folder in folders if not Path(folder).is_dir()],
        "code": "",
        "cards": [],
        "fault": "",
    }
    if not versions.keys() >= {"pydantic", "psutil", "filelock"}:
        return found  # PRISM cannot be imported, and the caller says which package is missing
    shown = os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray may hide all from a task that asks for none
    try:
        for place in ("", code[0]):
            sys.path[:0] = [place] if place else []
            try:
                from prism import devices
                from prism.store.provenance import own_source, source_tree
            except ImportError:
                continue
            if own_source() == code[1]:
                found |= {"code": place or "installed", "cards": devices.cuda_memory(), "fault": devices.cuda_fault()}
                found["sees_checkout"] = source_tree(Path(checkout[0])) == checkout[1]
                break
            for name in [name for name in sys.modules if name.partition(".")[0] == "prism"]:
                del sys.modules[name]
    finally:
        if shown is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = shown
    return found
