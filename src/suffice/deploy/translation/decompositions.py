"""Operations in forms that the translation to ONNX does not take, by forms that it does.

- Attention of (N, T, D), whose single head has no dimension of its own, becomes attention of (N, 1, T, D).
- A stable sort becomes a sort, which ONNX's TopK makes stable: of equal values, the first comes first.
- The Cholesky factor of small matrices becomes elementary operations, a column at a time.
- Rows of a table become NaN where their index is negative, which ONNX takes for rows from the end: asked for only where
  no range of an input excludes such numbers.
"""

from typing import Any

import torch
from torch import Tensor

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_SORT = torch.ops.aten.sort.stable
_CHOLESKY = torch.ops.aten.linalg_cholesky_ex.default
_EMBEDDING, _INDEX_SELECT = torch.ops.aten.embedding.default, torch.ops.aten.index_select.default

_MOST_COLUMNS = 8
"""Largest number of columns of a matrix that is factored, as there are operations for each."""


def replace_untranslated(
    program: torch.export.ExportedProgram, mark_rows: bool = False
) -> torch.export.ExportedProgram:
    """Return a traced program with the same results, whose operations have a translation where we know one.

    Args:
        program: Traced program.
        mark_rows: Replace rows of a table by NaN where their index is negative.
    """
    calls = [node for node in program.graph.nodes if node.target in _REPLACED]
    if not mark_rows and all(node.target is _ATTENTION and node.args[0].meta["val"].ndim == 4 for node in calls):
        return program  # a second trace takes a while
    table = {**_REPLACED, **(_MARKED if mark_rows else {})}
    replaced: torch.export.ExportedProgram = program.run_decompositions(table)
    return replaced


def _with_heads(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Any:
    """Compute attention of three dimensions (N, T, D) with four; any other is left to the translation."""
    if query.ndim != 3:
        return NotImplemented
    if attn_mask is not None and attn_mask.ndim == 3:
        attn_mask = attn_mask.unsqueeze(1)
    heads = (tensor.unsqueeze(1) for tensor in (query, key, value))
    return _ATTENTION(*heads, attn_mask, *args, **kwargs).squeeze(1)


def _sort(values: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False) -> Any:
    """Sort values; whether the sort has to be stable makes no difference."""
    del stable
    return torch.ops.aten.sort.default(values, dim, descending)


def _cholesky(matrices: Tensor, *, upper: bool = False, check_errors: bool = False) -> Any:
    """Compute the lower factors L (…, k, k) of positive definite matrices, and zeros in place of their errors."""
    if upper or check_errors or matrices.shape[-1] > _MOST_COLUMNS:
        return NotImplemented
    columns, rest = list[Tensor](), matrices
    for j in range(matrices.shape[-1]):
        column = rest[..., j] / rest[..., j, j].sqrt()[..., None]
        columns.append(column)
        rest = rest - column[..., :, None] * column[..., None, :]
    return torch.stack(columns, dim=-1).tril(), torch.zeros_like(matrices[..., 0, 0], dtype=torch.int32)


def _embedding(table: Tensor, index: Tensor, *_: Any, **__: Any) -> Tensor:
    """Look up rows of a table, NaN where the index is negative."""
    return table[index].masked_fill((index < 0).unsqueeze(-1), float("nan"))


def _index_select(tensor: Tensor, dim: int, index: Tensor) -> Any:
    """Select entries along a dimension, NaN where the index is negative; integers have no NaN."""
    if not tensor.is_floating_point() or not tensor.ndim:
        return NotImplemented
    places: list[Any] = [*[slice(None)] * (dim % tensor.ndim), index]
    behind = tensor.ndim - dim % tensor.ndim - 1
    return tensor[tuple(places)].masked_fill((index < 0).view(-1, *[1] * behind), float("nan"))


_MARKED = {_EMBEDDING: _embedding, _INDEX_SELECT: _index_select}

_REPLACED = {_ATTENTION: _with_heads, _SORT: _sort, _CHOLESKY: _cholesky}
