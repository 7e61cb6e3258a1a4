"""What judging may cost, will probably cost and has cost: tokens always, money if a price is known."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prism.errors import PrismError

# US dollars per million tokens (prompt, completion), as deepeval 4.3.1 lists them; PRISM_JUDGE_PRICE overrides.
PUBLISHED = {
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-4o": (2.50, 10.00),
    "gpt-4.1-nano": (0.10, 0.40),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1": (2.00, 8.00),
}


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    prompt: float
    completion: float

    @classmethod
    def parse(cls, text: str) -> Price:
        match = re.fullmatch(r"\s*(\d*\.?\d+)\s*/\s*(\d*\.?\d+)\s*", text)
        if not match:
            raise PrismError(
                f"PRISM_JUDGE_PRICE {text!r}: not two prices; write dollars per million tokens, as in 0.15/0.60"
            )
        return cls(float(match[1]), float(match[2]))

    @classmethod
    def published(cls, model: str) -> Price | None:
        """The listed price of a model; a dated name (gpt-4o-mini-2024-07-18) costs what its family costs."""
        family = re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model)
        return cls(*PUBLISHED[family]) if family in PUBLISHED else None


@dataclass(frozen=True)
class Tokens:
    """A number of requests and tokens."""

    requests: int = 0
    prompt: int = 0
    completion: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.requests + other.requests, self.prompt + other.prompt, self.completion + other.completion)

    def __sub__(self, other: Tokens) -> Tokens:
        return self + Tokens(-other.requests, -other.prompt, -other.completion)

    def dollars(self, price: Price | None) -> float | None:
        if price is None:
            return None
        return (self.prompt * price.prompt + self.completion * price.completion) / 1e6

    def sentence(self, price: Price | None) -> str:
        dollars = self.dollars(price)
        money = "price unknown (PRISM_JUDGE_PRICE sets one)" if dollars is None else f"${dollars:.4f}"
        return f"{self.requests:,} requests, {self.prompt:,} + {self.completion:,} tokens, {money}"


@dataclass(frozen=True)
class Budget:
    """A limit on a run's judging, in dollars or in tokens."""

    amount: float
    unit: str  # "dollars" or "tokens"

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`2.50` and `$2.50` are dollars, `200000 tokens` and `200k tokens` are tokens."""
        match = re.fullmatch(r"\s*\$?(\d*\.?\d+)\s*|\s*([\d_,]*\.?\d+)\s*([kM]?)\s*tokens\s*", text)
        if not match:
            raise PrismError(f"judge budget {text!r}: write dollars, as in 2.50, or tokens, as in 200k tokens")
        if match[1]:
            return cls(float(match[1]), "dollars")
        return cls(float(re.sub("[_,]", "", match[2])) * {"": 1, "k": 1e3, "M": 1e6}[match[3]], "tokens")

    def __str__(self) -> str:
        return f"${self.amount:g}" if self.unit == "dollars" else f"{self.amount:,.0f} tokens"


class Spending:
    """The tokens that one run spends on judging. Share it between calls, so that they share the budget."""

    def __init__(self, price: Price | None = None, budget: Budget | None = None) -> None:
        if budget and budget.unit == "dollars" and price is None:
            raise PrismError(
                f"judge budget {budget}: this judge's price is unknown; set PRISM_JUDGE_PRICE, or give the budget in "
                f"tokens, as in 200k tokens"
            )
        self.price = price
        self.budget = budget
        self.spent = Tokens()
        self.reserved = Tokens()
        self.retries = 0

    def add(self, prompt: int, completion: int) -> None:
        self.spent += Tokens(1, prompt, completion)

    def allows(self, more: Tokens) -> bool:
        """Whether the budget covers what is spent and reserved, and `more`."""
        if self.budget is None:
            return True
        total = self.spent + self.reserved + more
        amount = total.dollars(self.price) if self.budget.unit == "dollars" else total.prompt + total.completion
        return amount is not None and amount <= self.budget.amount

    @contextlib.contextmanager
    def reserve(self, expected: Tokens) -> Iterator[None]:
        """Reserve tokens while a request runs, so that 32 requests at once cannot exceed the budget together."""
        self.reserved += expected
        try:
            yield
        finally:
            self.reserved -= expected

    def summary(self) -> dict[str, Any]:
        """Plain JSON types, for a report."""
        return {
            "requests": self.spent.requests,
            "retries": self.retries,
            "prompt_tokens": self.spent.prompt,
            "completion_tokens": self.spent.completion,
            "dollars": self.spent.dollars(self.price),
            "budget": str(self.budget) if self.budget else None,
        }
