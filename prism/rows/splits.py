"""How each row is named, and which rows are held out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from prism.errors import DataError
from prism.rows import Row
from prism.rows.files import require_columns


def row_id(row: Row) -> str:
    """The name of a row: 12 hex digits of the SHA-256 of its content, so it outlives reordering and file names."""
    canonical = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def unique_ids(rows: Sequence[Row]) -> list[str]:
    """`row_id` of each row; a repeated row gets "-2", "-3" … so that every sample has a name of its own."""
    seen: Counter[str] = Counter()
    ids = []
    for row in rows:
        name = row_id(row)
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return ids


def split_rows(rows: Sequence[Row], split: Mapping[str, Any], seed: int) -> tuple[list[Row], list[Row]]:
    """Rows divided into (training, held out) as `split_places` says."""
    train, test = split_places(rows, split, seed)
    return [rows[i] for i in train], [rows[i] for i in test]


def split_places(rows: Sequence[Row], split: Mapping[str, Any], seed: int) -> tuple[list[int], list[int]]:
    """Shuffle and divide rows with scikit-learn's splitters: the places of the training and of the held-out rows.

    `split` holds test_size (a share, or a number of rows; with `group` of its values) and at most one of `stratify` (a
    column whose shares stay equal: train_test_split) and `group` (a column whose values stay whole: GroupShuffleSplit).
    Both parts come out shuffled, so that their first N rows are a random sample.
    """
    import numpy
    from sklearn.model_selection import GroupShuffleSplit, train_test_split

    test_size = split["test_size"]
    for column in filter(None, (split.get("stratify"), split.get("group"))):
        require_columns(rows, [column])
    labels, groups = ([str(row[split[by]]) for row in rows] if split.get(by) else None for by in ("stratify", "group"))
    if groups and len(set(groups)) < 2:
        raise DataError(f'[data].split group = "{split["group"]}": one value only, so nothing can be held out')
    try:
        if groups:
            train, test = next(GroupShuffleSplit(1, test_size=test_size, random_state=seed).split(rows, groups=groups))
            shuffle = numpy.random.default_rng(seed).permutation
            return shuffle(train).tolist(), shuffle(test).tolist()
        train, test = train_test_split(range(len(rows)), test_size=test_size, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DataError(f"[data].split of {len(rows)} rows: {error}; lower test_size or add rows") from None
    return list(train), list(test)
