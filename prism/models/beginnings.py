"""What several prompts or rows begin with is computed once: how long it is, and for training on a CPU the rest.

There the rows of a batch lie side by side after their common beginning. Attention takes rows of one width, so its input is
spread over them and its output collected again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from prism.models.ahead import Rows


def shared_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """The length of the prompts' common prefix, leaving each prompt at least one token of its own."""
    if len(prompts) < 2:
        return 0
    low, high = min(map(list, prompts)), max(map(list, prompts))
    room = min(map(len, prompts)) - 1
    return next((n for n in range(room) if low[n] != high[n]), room)


@dataclass(frozen=True)
class Grid:
    """Where tokens that lie side by side stand in rows of one width."""

    places: torch.Tensor  # (rows × width) the token that stands there; any where none does
    taken: torch.Tensor  # (rows × width) whether one does
    order: torch.Tensor  # (tokens) where each token stands
    rows: int

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, heads, head_dim) to (rows, heads, width, head_dim)."""
        found: torch.Tensor = _Selected.apply(x, self.places, self.order, None)
        return found.unflatten(0, (self.rows, -1)).transpose(1, 2)

    def collected(self, y: torch.Tensor) -> torch.Tensor:
        """(rows, heads, width, head_dim) to (tokens, heads, head_dim)."""
        found: torch.Tensor = _Selected.apply(y.transpose(1, 2).flatten(0, 1), self.order, self.places, self.taken)
        return found


class _Selected(torch.autograd.Function):
    """x[places] along the first dimension, whose gradient is selected, too; torch would add it up, which is slower."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, places: torch.Tensor, back: torch.Tensor, taken: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.back, ctx.taken = back, taken
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> tuple[Any, ...]:
        found = gradient[0].index_select(0, ctx.back)
        if ctx.taken is not None:
            found.mul_(ctx.taken[:, None, None])
        return found, None, None, None


@dataclass(frozen=True)
class Batch:
    """The tokens of all rows: the `shared` ones that each row begins with, then what is left of each."""

    ids: torch.Tensor  # (tokens)
    positions: torch.Tensor  # (tokens)
    counted: torch.Tensor  # (targets) the tokens whose next one counts in the loss
    labels: torch.Tensor  # (targets) that next one; -100 where no row has any
    shared: int
    every: Grid  # of what is left of each row
    answers: Grid  # of `counted`
    sees: torch.Tensor | None  # (width, shared + width) what each token of a row sees; None if all before it
    answers_see: torch.Tensor  # (rows, 1, width of `answers`, shared + width)


def batch_of(rows: Rows) -> Batch:
    ids, following = (
        [numbers[first : first + length] for first, length in zip(rows.first, rows.lengths, strict=True)]
        for numbers in (rows.ids, rows.following)
    )
    first = min((int((part != -100).argmax()) for part in following if (part != -100).any()), default=len(ids[0]))
    shared = min(first, shared_beginning([part.tolist() for part in ids]))  # what counts is each row's own
    own = rows.lengths - shared
    position = numpy.concatenate([numpy.arange(shared), *(numpy.arange(shared, length) for length in rows.lengths)])
    labels = numpy.concatenate([part[shared:] for part in following])
    counted = (labels != -100).nonzero()[0]
    if not len(counted):
        counted = numpy.zeros(1, numpy.int64)  # whose label is -100
    row = numpy.arange(len(own)).repeat(own)[counted]
    every, answers = _grid(own), _grid(numpy.bincount(row, minlength=len(own)))
    at = torch.from_numpy(position[shared:][counted])[answers.places].view(len(own), 1, -1, 1)
    width = int(own.max())
    return Batch(
        ids=torch.from_numpy(numpy.concatenate([ids[0][:shared], *(part[shared:] for part in ids)])),
        positions=torch.from_numpy(position),
        counted=torch.from_numpy(counted + shared),
        labels=torch.from_numpy(labels[counted]),
        shared=shared,
        every=every,
        answers=answers,
        sees=torch.ones(width, shared + width, dtype=torch.bool).tril(shared) if shared else None,
        answers_see=torch.arange(shared + width) <= at,
    )


def _grid(lengths: numpy.ndarray) -> Grid:
    """The grid of rows of these lengths, side by side."""
    column = numpy.arange(lengths.max())
    taken = column < lengths[:, None]
    places = numpy.where(taken, (lengths.cumsum() - lengths)[:, None] + column, 0)
    order = taken.ravel().nonzero()[0]
    return Grid(
        torch.from_numpy(places.ravel()), torch.from_numpy(taken.ravel()), torch.from_numpy(order), len(lengths)
    )


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, batch: Batch, scaling: float, answers: bool = False
) -> torch.Tensor:
    """Causal attention of each row, (tokens, heads, head_dim) each; `answers` have queries of `batch.counted` only."""
    if answers:
        return _attended(q, k, v, batch.answers, batch.answers_see, batch, scaling)
    found = _attended(q[batch.shared :], k, v, batch.every, batch.sees, batch, scaling)
    if not batch.shared:
        return found
    q, k, v = (part[: batch.shared].transpose(0, 1)[None] for part in (q, k, v))
    first = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
    return torch.cat([first[0].transpose(0, 1), found])


def _attended(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    grid: Grid,
    sees: torch.Tensor | None,
    batch: Batch,
    scaling: float,
) -> torch.Tensor:
    """(tokens, heads, head_dim) each; what queries in `grid` read in keys and values of all tokens."""
    keys, values = (_after_the_beginning(part, batch) for part in (k, v))
    found = F.scaled_dot_product_attention(
        grid.spread(q), keys, values, attn_mask=sees, is_causal=sees is None, scale=scaling, enable_gqa=True
    )
    return grid.collected(found)


def _after_the_beginning(x: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(tokens, heads, head_dim) to (rows, heads, shared + width, head_dim)."""
    own = batch.every.spread(x[batch.shared :])
    if not batch.shared:
        return own
    begun = x[: batch.shared].transpose(0, 1)
    return torch.cat([begun.expand(batch.every.rows, -1, -1, -1), own], 2)
