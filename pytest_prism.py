"""What pytest loads in every run where `pytest-prism` is installed: PRISM itself, if the project has specs.

A module of its own, since to import `prism` would cost an unrelated run time, and hide a package of that name from it.
"""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

SPECS = Path("benchmarks", "specs")


@pytest.hookimpl(tryfirst=True)  # before the project's conftest.py, which may name the plugin, too
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    root = early_config.rootpath
    if (root / SPECS).is_dir():
        _require_own_package(root)
        collects = gc.isenabled()
        gc.disable()  # imports leave no garbage behind, and to look for it takes a tenth of their time
        try:
            early_config.pluginmanager.import_plugin("prism.plugin.hooks")
        finally:
            if collects:
                gc.enable()
    elif given := next((argument for argument in args if argument.startswith("--prism-")), None):
        raise pytest.UsageError(
            f"{given}: {root} has no {SPECS}; run pytest in a project that has specs, or write the first by `prism init`"
        )


def _require_own_package(root: Path) -> None:
    """Raise UsageError if `prism` is another package than the one that was installed, or than the checkout's own."""
    import prism

    loaded = Path(prism.__file__ or next(iter(prism.__path__))).resolve()
    package = loaded.parent if loaded.name == "__init__.py" else loaded
    if not (package / "plugin" / "hooks.py").is_file():
        raise pytest.UsageError(
            f"{loaded}: is another package than pytest-prism's, and of the same name; rename it, or move it off sys.path"
        )
    own = (root / "prism").resolve()
    if (own / "plugin" / "hooks.py").is_file() and own != package:
        raise pytest.UsageError(
            f"{own}: is not the package that was installed, {package}; run `pip install -e .` here, or set "
            f"PYTHONPATH={root}"
        )
