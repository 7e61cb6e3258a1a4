"""Whether a chat template ends, and in how much memory. A template is a program, often a stranger's.

transformers renders it in a sandbox that keeps it from files and attributes, but not from loops without end.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import cache

from prism.errors import ModelError

SECONDS, GIBIBYTES = 10, 1  # of a processor and of memory; a published template takes milliseconds and some kilobytes
WAITING = 120  # seconds on a machine that is busy, or whose system cannot limit a process's processor time
LONGEST = 1_000_000  # characters of a template
# Another process, since a loop of jinja2 cannot be stopped from outside. It has what transformers gives a template, as
# far as that matters for its length: an error here is met again, and said, where the template is used.
RENDER = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), int(sys.argv[2]) + 1))
except ImportError:
    pass
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
def refuse(message):
    raise TemplateError(message)
text = sys.stdin.buffer.read().decode()
environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
environment.globals |= {"raise_exception": refuse, "strftime_now": lambda pattern: "2024"}
turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]
for messages in (turns, turns[1:], turns[:2], turns[1:2]):
    try:
        length = 0
        for block in environment.from_string(text).generate(
            messages=messages, add_generation_prompt=messages[-1]["role"] == "user", bos_token="<s>", eos_token="</s>"
        ):
            length += len(block)
            if length > 1_000_000:
                sys.exit(3)
    except MemoryError:
        sys.exit(3)
    except Exception:
        pass
"""


@cache
def require_bounded(template: str, name: str) -> None:
    """Raise ModelError if a template of the model `name` runs on, grows without end, or is no text of usual length."""
    why = ""
    if len(template) > LONGEST:
        why = f"has {len(template):,} characters"
    else:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", RENDER, str(GIBIBYTES * 2**30), str(SECONDS)],
                input=template.encode("utf-8", "replace"),
                capture_output=True,
                timeout=WAITING,
                check=False,
            )
            if done.returncode == -signal.SIGXCPU:
                why = f"runs for over {SECONDS} s for three short turns"
            elif done.returncode in (3, -9, -11):
                why = f"writes over a million characters or takes over {GIBIBYTES} GiB for three short turns"
        except subprocess.TimeoutExpired:
            why = f"runs for over {SECONDS} s for three short turns"
    if why:
        raise ModelError(f"{name}: the chat template {why}; name another by [sft].chat_template_path")
