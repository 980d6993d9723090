"""Prepared rows on disk: what is written comes back, and packs hold every row once, full and never over."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.data.chat import TokenRow
from tuner.data.store import TokenRows, best_fit, write_packs, write_rows


def row(ids: list[int], trained: list[int]) -> TokenRow:
    return TokenRow(ids=np.asarray(ids, dtype=np.int32), trained=np.asarray(trained, dtype=np.bool_), truncated=False)


ROWS = [row([5, 6, 7], [0, 0, 1]), row([9], [1]), row([70_000, 2, 3, 4], [1, 0, 1, 0]), row([8, 8], [0, 1])]
ITEMS = [
    {"input_ids": [5, 6, 7], "labels": [-100, -100, 7]},
    {"input_ids": [9], "labels": [9]},
    {"input_ids": [70_000, 2, 3, 4], "labels": [70_000, -100, 3, -100]},
    {"input_ids": [8, 8], "labels": [-100, 8]},
]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "new" / "folder", iter(ROWS))
    rows = TokenRows(tmp_path / "new" / "folder")
    assert len(rows) == 4
    assert [rows[i] for i in range(4)] == [{"rows": [item]} for item in ITEMS]
    assert isinstance(rows.ids, np.memmap), "rows stay on disk"


def test_packs_hold_whole_rows(tmp_path: Path) -> None:
    write_rows(tmp_path, ROWS)
    packs = write_packs(tmp_path, [3, 1, 4, 2], 5)
    assert packs == [[2, 1], [0, 3]]
    rows = TokenRows(tmp_path)
    assert len(rows) == 2
    assert [rows[i]["rows"] for i in range(2)] == [[ITEMS[2], ITEMS[1]], [ITEMS[0], ITEMS[3]]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=60))
def test_every_row_is_packed_once_and_no_pack_is_over(lengths: list[int]) -> None:
    packs = best_fit(lengths, 64)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in pack) <= 64 for pack in packs)
    spaces = sorted(64 - sum(lengths[i] for i in pack) for pack in packs)
    shortest_pack = min(sum(lengths[i] for i in pack) for pack in packs)
    assert len(packs) == 1 or shortest_pack > spaces[0], "no pack would have gone into another one's space"


@pytest.mark.parametrize("seed", range(3))
def test_packs_are_full(seed: int) -> None:
    draw = random.Random(seed)
    lengths = [min(1024, max(8, round(draw.lognormvariate(5, 1)))) for _ in range(2000)]
    packs = best_fit(lengths, 1024)
    assert sum(lengths) / (len(packs) * 1024) > 0.98
