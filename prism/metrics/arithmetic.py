"""Compute answers that are calculations, such as `(44.1 - 56.7) / 56.7 * 100`, for the model, by simpleeval.

Only numbers and the four operators are allowed: no names, functions or powers, and at most 200 characters. So any
expression takes microseconds, and none can run for ever.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from functools import lru_cache

MAX_LENGTH = 200  # characters; the longest derivation of TAT-QA has 135
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
_NEGATIVE = re.compile(r"(?<![\d)])\(\s*(\d[\d.]*)\s*\)")  # (12.6): filings write -12.6 so
_ALLOWED = re.compile(r"[\d .%()+*/-]+")
_BINARY = re.compile(r"[\d)%]\s+[-+*/]\s*[\d(.-]|[\d)%]\s*\*\s*[\d(.-]|\)\s*[-+*/]|[\d)%]\s*[-+*/]\s*\(")
_CALL = re.compile(r"[\d.)%]\s*\(|\)\s*\d")
OPERAND = re.compile(r"\d[\d,]*(?:\.\d+)?")
_PARTS = re.compile(r"[$€£¥]?\s?(?:\d[\d,]*\.?\d*|\.\d+)\s?%?|[-+*/()]")


def spaced(expression: str) -> str:
    """Put spaces around an expression's operators: "(44.1-56.7)/56.7" → "(44.1 - 56.7) / 56.7".

    Any other text loses the characters that no expression has, and `compute` refuses it.
    """
    result = ""
    for part in _PARTS.findall(expression.translate(_PLAIN)):
        unary = not result or result.endswith(("(", " "))
        result += f" {part} " if part in "+-*/" and not unary else part.strip()
    return result


def operands(expression: str) -> list[str]:
    """The numbers of an expression as written, except the 100 that makes a percentage."""
    return [number for number in OPERAND.findall(expression) if number != "100"]


@lru_cache(1 << 16)
def compute(text: str) -> float | None:
    """The value of an expression; None if the text is not one, is refused, or divides by zero.

    A lone number is not an expression, nor is "2018-2019" or "10/12": an operator needs spaces around it or a
    parenthesis next to it. A number in another locale ("1.234,56") is refused, because its value would be a guess.
    """
    from simpleeval import InvalidExpression, SimpleEval

    cleaned = " ".join(_THOUSANDS.sub("", text.translate(_SIGNS)).split())
    if len(text) > MAX_LENGTH or not _ALLOWED.fullmatch(cleaned) or not _BINARY.search(cleaned):
        return None
    cleaned = _NEGATIVE.sub(r"(-\1)", cleaned)
    if _CALL.search(cleaned):
        return None
    cleaned = _PERCENT.sub(r"(\1/100)", cleaned)
    try:
        value = SimpleEval(operators=OPERATORS, functions={}, names={}).eval(cleaned)
        return value if isinstance(value, int | float) and math.isfinite(value) else None
    except (InvalidExpression, SyntaxError, ArithmeticError, TypeError, ValueError, MemoryError, RecursionError):
        return None
