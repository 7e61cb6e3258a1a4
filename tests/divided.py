"""What each process of a launched training runs in a test: FSDP on a CPU, which accelerate leaves out there in silence."""

import sys
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from prism.models import launch

_initialize = AcceleratorState.__init__


def _divides(self: Any, *given: Any, fsdp_plugin: Any = None, **named: Any) -> None:
    """As accelerate does it on GPUs."""
    _initialize(self, *given, fsdp_plugin=fsdp_plugin, **named)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        PartialState._shared_state["distributed_type"] = self.distributed_type


if __name__ == "__main__":
    AcceleratorState.__init__ = _divides  # type: ignore[method-assign]
    launch.main(Path(sys.argv[1]))
