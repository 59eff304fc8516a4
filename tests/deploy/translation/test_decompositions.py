"""Operations are replaced by others with the same results, and only where they have to be."""

import onnxruntime
import pytest
import torch
from torch import nn

from suffice.deploy.translation.decompositions import _ATTENTION, _CHOLESKY, _SORT, replace_untranslated
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


class Ranked(nn.Module):
    """Values and their places in the order of a stable sort."""

    def forward(self, values):
        return torch.sort(values, dim=1, descending=True, stable=True)


class Factored(nn.Module):
    """Cholesky factors of matrices."""

    def forward(self, matrices):
        return torch.linalg.cholesky_ex(matrices)


def targets(program):
    return {node.target for node in program.graph.nodes}


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


def test_a_stable_sort_becomes_a_sort_with_the_same_order():
    values = torch.tensor([[2.0, 7.0, 2.0, 7.0, 7.0], [1.0, 0.0, 1.0, 0.0, 3.0]])
    program = torch.export.export(Ranked(), (values,), strict=False)
    assert _SORT in targets(program)
    replaced = replace_untranslated(program)
    assert not targets(replaced) & {_SORT}
    graph = torch.onnx.export(replaced, dynamo=True, verbose=False, optimize=True).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(graph)
    ranked, places = session.run(None, {session.get_inputs()[0].name: values.numpy()})
    assert ranked.tolist() == [[7, 7, 7, 2, 2], [3, 1, 1, 0, 0]]
    assert places.tolist() == [[1, 3, 4, 0, 2], [4, 0, 2, 1, 3]]


@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_a_cholesky_factor_is_that_of_elementary_operations(k):
    generator = torch.Generator().manual_seed(k)
    roots = torch.randn(ROWS, k, k, generator=generator)
    matrices = roots @ roots.mT + torch.eye(k)  # eigenvalues of 1 or more
    program = torch.export.export(Factored(), (matrices,), strict=False)
    replaced = replace_untranslated(program)
    assert not targets(replaced) & {_CHOLESKY}
    factor, errors = replaced.module()(matrices)
    assert errors.tolist() == [0] * ROWS
    assert torch.equal(factor, factor.tril())
    # LLᵀ is A up to γ_{k+1} |L||Lᵀ|, of elements at most those of the diagonal of A (Higham 2002, theorem 10.3)
    greatest = float(matrices.diagonal(dim1=1, dim2=2).max())
    terms = k + 2  # and those of the product
    torch.testing.assert_close(factor @ factor.mT, matrices, atol=2 * gamma(terms, torch.float32) * greatest, rtol=0)


def test_a_matrix_of_many_columns_is_left_to_the_translation():
    matrices = torch.eye(9).expand(ROWS, 9, 9).clone()
    replaced = replace_untranslated(torch.export.export(Factored(), (matrices,), strict=False))
    assert _CHOLESKY in targets(replaced)


@pytest.mark.parametrize("select", [False, True])
def test_rows_with_a_negative_index_are_not_a_number_if_they_are_to_be_marked(select):
    class LookUp(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(5, 2, 3))

        def forward(self, index):
            if select:
                return self.table.index_select(1, index[:, 0])
            return nn.functional.embedding(index, self.table[:, 0])

    module = LookUp()
    index = torch.tensor([[1, 0], [0, 1]])
    program = torch.export.export(module, (index,))
    marked = replace_untranslated(program, mark_rows=True).module()
    torch.testing.assert_close(marked(index), module(index))
    missing = marked(torch.tensor([[1, 0], [-1, 1]])).isnan()
    expected = torch.zeros(5, 2, 3) if select else torch.zeros(2, 2, 3)
    (expected[:, 1] if select else expected[1, 0]).fill_(1)
    assert torch.equal(missing, expected.bool())
