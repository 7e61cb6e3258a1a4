"""Row ids, and the split into training and held-out rows."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from prism.errors import DataError
from prism.rows import Row
from prism.rows.files import require_columns
from prism.rows.values import plain


def row_id(row: Row) -> str:
    """12 hex digits of the SHA-256 of the row's content, so the id does not depend on row order or file names."""
    canonical = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def unique_ids(rows: Sequence[Row]) -> list[str]:
    """`row_id` of each row; a repeated row gets the suffix "-2", "-3" … so that every id is unique."""
    counts: Counter[str] = Counter()
    ids = []
    for row in rows:
        base_id = row_id(row)
        counts[base_id] += 1
        ids.append(base_id if counts[base_id] == 1 else f"{base_id}-{counts[base_id]}")
    return ids


def split_rows(rows: Sequence[Row], split: Mapping[str, Any], seed: int) -> tuple[list[Row], list[Row]]:
    """The (training, held-out) rows at the indices that `split_places` returns."""
    train, test = split_places(rows, split, seed)
    return [rows[i] for i in train], [rows[i] for i in test]


def split_places(rows: Sequence[Row], split: Mapping[str, Any], seed: int) -> tuple[list[int], list[int]]:
    """Shuffle and split rows with scikit-learn. Returns the indices of the training and of the held-out rows.

    `split` has test_size (a share or a number of rows; with `group`, of groups) and at most one of `stratify` (a column
    whose distribution both parts share: train_test_split) and `group` (a column whose values are never split:
    GroupShuffleSplit). Both parts are shuffled, so that their first N rows are a random sample.
    """
    import numpy
    from sklearn.model_selection import GroupShuffleSplit, train_test_split

    test_size = split["test_size"]
    for column in filter(None, (split.get("stratify"), split.get("group"))):
        require_columns(rows, [column])
    labels = _strata(rows, split["stratify"]) if split.get("stratify") else None
    groups = [str(row[split["group"]]) for row in rows] if split.get("group") else None
    if groups and len(set(groups)) < 2:
        raise DataError(f'[data].split group = "{split["group"]}": all rows have one value; name another column')
    try:
        if groups:
            train, test = next(GroupShuffleSplit(1, test_size=test_size, random_state=seed).split(rows, groups=groups))
            shuffle = numpy.random.default_rng(seed).permutation
            return shuffle(train).tolist(), shuffle(test).tolist()
        train, test = train_test_split(range(len(rows)), test_size=test_size, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DataError(f"[data].split of {len(rows)} rows: {error}; lower test_size or add rows") from None
    return list(train), list(test)


def _strata(rows: Sequence[Row], column: str) -> list[str]:
    """The value of each row by which the split is stratified. Spellings of one label ("Bullish ", 1.0) are one stratum.

    Raises DataError for a stratum of one row, which cannot lie in both parts.
    """
    written = [str(row[column]) for row in rows]
    by_value = {value: plain(value) for value in set(written)}
    # As written, if no two are one: scikit-learn sorts the strata, so another spelling would give another split.
    merged = len(set(by_value.values())) < len(by_value)
    strata = [by_value[value] for value in written] if merged else written
    alone = next((value for value, count in Counter(strata).items() if count == 1), None)
    if alone is not None:
        raise DataError(
            f'[data].split stratify = "{column}": only one of {len(rows)} rows is "{alone}", which cannot be in the '
            f"training and in the held-out rows; add rows of it, or delete that row"
        )
    return strata
