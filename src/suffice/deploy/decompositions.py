"""Operations in forms that the translation to ONNX does not take, by forms that it does.

Attention of (N, T, D), whose single head has no dimension of its own, becomes attention of (N, 1, T, D).
"""

from typing import Any

import torch
from torch import Tensor

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def replace_untranslated(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a traced program with the same results, whose operations have a translation where we know one."""
    calls = (node for node in program.graph.nodes if node.target is _ATTENTION)
    if all(node.args[0].meta["val"].ndim == 4 for node in calls):
        return program  # a second trace takes a while
    replaced: torch.export.ExportedProgram = program.run_decompositions({_ATTENTION: _with_heads})
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
