"""Spoils the inputs of a reader, and says where it raised anything but a PrismError, or took too long.

    python -m tests.faults.fuzz READER --minutes 10
    python -m tests.faults.fuzz READER --number 1234      # one input again, with its traceback

The n-th input is the same each time. A found fault is printed once for each place that raised; its input is kept in
--keep.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from prism.errors import PrismError
from tests.faults.mutating import mutated
from tests.faults.readers import READERS, Reader

LONGEST = 3_000  # characters of a sentence
SECONDS = 20  # of the processor, for one input; published ones take milliseconds


class TooSlow(BaseException):
    """Not an Exception, so that no reader takes it for a damaged file."""


def attempt(reader: Reader, content: bytes, seconds: int = SECONDS) -> BaseException | None:
    """What a reader raised of an input, unless it is a PrismError of one line."""

    def stop(*_: object) -> None:
        raise TooSlow(f"over {seconds} s")

    before = [signal.signal(name, stop) for name in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(10 * seconds)  # for one that waits
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(content)
    except PrismError as error:
        if "\n" in str(error) or len(str(error)) > LONGEST:
            return error
    except (Exception, TooSlow) as error:  # noqa: BLE001  # whatever it is, it is found
        return error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for name, handler in zip((signal.SIGPROF, signal.SIGALRM), before):
            signal.signal(name, handler)
    return None


def input_of(name: str, reader: Reader, number: int) -> bytes:
    return mutated(random.Random(f"{name} {number}"), reader.seeds)


def place_of(error: BaseException) -> str:
    """The type of an error and the innermost line of PRISM's that it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/prism/" in frame.filename]
    return (
        f"{type(error).__name__} at {'/'.join(Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno}"
        if frames
        else repr(error)[:200]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=[*READERS, "all"])
    parser.add_argument("--minutes", type=float, default=10.0, help="for each reader")
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument("--number", type=int, help="only this input")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "prism-fuzz")
    arguments = parser.parse_args()
    _limit_memory(16)
    found: dict[str, int] = {}
    for name in READERS if arguments.reader == "all" else [arguments.reader]:
        with tempfile.TemporaryDirectory() as folder:
            reader = READERS[name](Path(folder))
            for seed in reader.seeds:
                if error := attempt(reader, seed):
                    print(f"{name}: its own seed is refused: {error!r}")
            until, number = time.monotonic() + 60 * arguments.minutes, arguments.number or arguments.start
            while time.monotonic() < until:
                content = input_of(name, reader, number)
                error = attempt(reader, content)
                if error and arguments.number is not None:
                    traceback.print_exception(error)
                if error and (place := f"{name}: {place_of(error)}") not in found:
                    found[place] = number
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    (arguments.keep / f"{name}-{number}").write_bytes(content)
                    print(f"{place}, input {number}: {str(error)[:200]!r}", flush=True)
                number += 1
                if arguments.number is not None:
                    break
            print(f"{name}: {number - arguments.start:,} inputs", flush=True)
    return 1 if found else 0


def _limit_memory(gibibytes: int) -> None:
    """So that an input which takes all memory is a MemoryError here, and no end of the machine."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (gibibytes * 2**30, gibibytes * 2**30))


if __name__ == "__main__":
    sys.exit(main())
