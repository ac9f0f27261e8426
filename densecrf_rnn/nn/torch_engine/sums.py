"""Weighted sums of rows of a table, in a fixed order and without the rows in between.

`embedding_bag` reads each row, multiplies it by its weight and adds it to the sum of its bag, one
bag per thread. So sums are identical from run to run, and gathered rows are never stored.
"""

import torch
from torch import Tensor

# Types of devices on which torch has embedding_bag with weights.
_WITH_BAGS = frozenset(("cpu", "cuda", "xpu"))


def gathered(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Return the sums over k of weight[p, k] table[index[p, k]], [P, C].

    `table` is [R, C], `index` [P, K] int32 and `weight` [P, K].
    """
    sums, terms = index.shape
    if table.device.type not in _WITH_BAGS:
        out = table.new_zeros(sums, table.shape[1])
        for k in range(terms):
            out += table.index_select(0, index[:, k]) * weight[:, k, None]
        return out
    begins = torch.arange(sums, dtype=index.dtype, device=index.device) * terms
    return _bags(table, index.reshape(-1), begins, weight.reshape(-1))


def segmented(table: Tensor, index: Tensor, begins: Tensor, weight: Tensor) -> Tensor:
    """Return the sums over e of weight[e] table[index[e]], one for each segment of e, [S, C].

    Segment s are the entries from begins[s] to begins[s + 1], and for the last one to the end.
    """
    if table.device.type not in _WITH_BAGS:
        entries = torch.arange(len(index), dtype=begins.dtype, device=index.device)
        segment = torch.searchsorted(begins, entries, right=True) - 1
        rows = table.index_select(0, index) * weight[:, None]
        return table.new_zeros(len(begins), table.shape[1]).index_add_(0, segment, rows)
    return _bags(table, index, begins, weight)


def _bags(table: Tensor, index: Tensor, begins: Tensor, weight: Tensor) -> Tensor:
    found: Tensor = torch.embedding_bag(
        table.contiguous(), index, begins, False, 0, False, weight, False
    )[0]
    return found
