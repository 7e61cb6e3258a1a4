"""Answers that are calculations: `(44.1 - 56.7) / 56.7 * 100` is computed for the model, by simpleeval.

Numbers and the four operators, nothing else: no names, no functions, no powers, 200 characters at most. So an expression
takes microseconds whatever it says, and there is none that could run for ever.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from functools import lru_cache

LONGEST = 200  # characters; the longest derivation of TAT-QA has 135
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}

_PLAIN = str.maketrans("−–×÷[]", "--*/()")
_SIGNS = _PLAIN | dict.fromkeys(map(ord, "$€£¥"))
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_NEGATIVE = re.compile(r"(?<![\d)])\(\s*(\d[\d.]*)\s*\)")  # (12.6): a filing's way to write -12.6
_ALLOWED = re.compile(r"[\d .%()+*/-]+")
_BINARY = re.compile(r"[\d)%]\s+[-+*/]\s*[\d(.-]|[\d)%]\s*\*\s*[\d(.-]|\)\s*[-+*/]|[\d)%]\s*[-+*/]\s*\(")
_CALL = re.compile(r"[\d.)%]\s*\(|\)\s*\d")
OPERAND = re.compile(r"\d[\d,]*(?:\.\d+)?")
_PARTS = re.compile(r"[$€£¥]?\s?(?:\d[\d,]*\.?\d*|\.\d+)\s?%?|[-+*/()]")


def spaced(expression: str) -> str:
    """An expression with its operators between spaces: "(44.1-56.7)/56.7" → "(44.1 - 56.7) / 56.7".

    Anything else comes back without what no expression holds, for `compute` to refuse.
    """
    said = ""
    for part in _PARTS.findall(expression.translate(_PLAIN)):
        unary = not said or said.endswith(("(", " "))
        said += f" {part} " if part in "+-*/" and not unary else part.strip()
    return said


def operands(expression: str) -> list[str]:
    """The numbers of an expression as they are written, but for the 100 that makes a percentage."""
    return [number for number in OPERAND.findall(expression) if number != "100"]


@lru_cache(1 << 16)
def compute(text: str) -> float | None:
    """The value of an expression; None where it is none, is refused, or divides by zero.

    A lone number is none, and neither is "2018-2019" or "10/12": an operator stands between spaces or at a parenthesis.
    A number in another locale ("1.234,56") is refused rather than guessed at.
    """
    from simpleeval import InvalidExpression, SimpleEval

    cleaned = " ".join(_THOUSANDS.sub("", text.translate(_SIGNS)).split())
    if len(text) > LONGEST or not _ALLOWED.fullmatch(cleaned) or not _BINARY.search(cleaned):
        return None
    cleaned = _NEGATIVE.sub(r"(-\1)", cleaned)
    if _CALL.search(cleaned):
        return None
    cleaned = _PERCENT.sub(r"(\1/100)", cleaned)
    try:
        value = SimpleEval(operators=OPERATORS, functions={}, names={}).eval(cleaned)
        return value if isinstance(value, int | float) and math.isfinite(value) else None
    except (InvalidExpression, SyntaxError, ArithmeticError, ValueError, MemoryError, RecursionError):
        return None
