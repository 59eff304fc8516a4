"""Operations are replaced by others with the same results, and only where they have to be."""

import pytest
import torch
from torch import nn

from suffice.deploy.decompositions import _ATTENTION, replace_untranslated
from tests.tolerances import gamma

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch's own exporter
ROWS, TOKENS, WIDTH = 3, 5, 4


class Attention(nn.Module):
    """Attention of a sequence to itself, in as many dimensions as it has."""

    def __init__(self, causal):
        super().__init__()
        self.causal = causal

    def forward(self, h, mask):
        return nn.functional.scaled_dot_product_attention(h, h, h, attn_mask=mask, is_causal=self.causal)


def traced(shape, mask, causal=False):
    h = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return torch.export.export(Attention(causal), (h, mask), strict=False), h


def attention_of(program):
    return [node for node in program.graph.nodes if node.target is _ATTENTION]


@pytest.mark.parametrize(
    ("mask", "causal"),
    [
        (None, False),
        (None, True),
        (torch.ones(ROWS, 1, TOKENS).bool().index_fill(2, torch.tensor(4), False), False),
        (torch.eye(TOKENS).bool(), False),
        (torch.randn(TOKENS, TOKENS, generator=torch.Generator().manual_seed(1)), False),
    ],
    ids=["no mask", "causal", "mask of each example", "one mask", "additive"],
)
def test_attention_of_three_dimensions_gets_a_head(mask, causal):
    program, h = traced((ROWS, TOKENS, WIDTH), mask, causal)
    replaced = replace_untranslated(program)
    (call,) = attention_of(replaced)
    assert [tensor.meta["val"].ndim for tensor in call.args[:3]] == [4, 4, 4]
    terms = 2 * (WIDTH + TOKENS + 8)  # two sums, exponentials and divisions
    atol = 2 * gamma(terms, torch.float32) * float(h.abs().max()) ** 2 * WIDTH
    torch.testing.assert_close(replaced.module()(h, mask), Attention(causal)(h, mask), atol=atol, rtol=0)


def test_a_program_without_such_attention_stays_as_it_is():
    program, _ = traced((ROWS, 2, TOKENS, WIDTH), None)
    assert replace_untranslated(program) is program
