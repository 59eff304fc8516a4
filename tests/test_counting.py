import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from suffice import cost
from suffice.counting import count_macs

X, A, V = torch.randn(2, 8), torch.randn(8, 8), torch.randn(8)
SEQUENCES = torch.randn(3, 5, 8)
SPARSE = torch.eye(8).to_sparse()
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Sparse CSR", UserWarning)
    CSR, BSR = torch.eye(8).to_sparse_csr(), torch.eye(8).to_sparse_bsr((2, 2))
QUERY, SHARED = torch.randn(2, 8, 5, 4), torch.randn(2, 2, 6, 4)

PRODUCTS = {
    "matrix and vector": (lambda: X @ V, 2 * 8),
    "batch and vector": (lambda: SEQUENCES @ V, 3 * 5 * 8),
    "vector and matrix": (lambda: V @ A, 8 * 8),
    "dot": (lambda: V @ V, 8),
    "inner": (lambda: torch.inner(X, A), 2 * 8 * 8),
    "addmv": (lambda: torch.addmv(V, A, V), 8 * 8),
    "addmm in place": (lambda: A.clone().addmm_(A, A), 8 * 8 * 8),
    "mm into out": (lambda: torch.mm(X, A, out=torch.empty(2, 8)), 2 * 8 * 8),
    "addr": (lambda: torch.addr(A, V, V), 8 * 8),
    "addbmm": (lambda: torch.addbmm(A, SEQUENCES.mT, SEQUENCES), 3 * 8 * 5 * 8),
    "vecdot": (lambda: torch.linalg.vecdot(X, V), 2 * 8),
    "vecdot over rows": (lambda: torch.linalg.vecdot(X, X, dim=0), 2 * 8),
    "bilinear": (lambda: functional.bilinear(X, X, torch.randn(4, 8, 8)), 2 * 4 * 8 * 8),
    "distances to few": (lambda: torch.cdist(X, A), 2 * 8 * 8),
    "distances to many": (lambda: torch.cdist(torch.randn(30, 8), torch.randn(40, 8)), 30 * 40 * 8),
    "city-block distances": (lambda: torch.cdist(X, A, p=1.0), 2 * 8 * 8),
    "distances of pairs": (lambda: functional.pdist(A), 8 * 7 // 2 * 8),
    "pairwise distances": (lambda: functional.pairwise_distance(X[:, None], A), 2 * 8 * 8),
    "cosines": (lambda: functional.cosine_similarity(X[:, None], A, dim=-1), 2 * 8 * 8),
    "einsum": (lambda: torch.einsum("ni,ij->nj", X, A), 2 * 8 * 8),
    "sparse.mm": (lambda: torch.sparse.mm(SPARSE, A), 8 * 8),
    "sparse @ matrix": (lambda: SPARSE @ A, 8 * 8),
    "sparse @ vector": (lambda: SPARSE @ V, 8),
    "sparse rows": (lambda: CSR @ A, 8 * 8),
    "sparse blocks": (lambda: BSR @ A, 4 * 2 * 2 * 8),
    "sparse weight": (lambda: functional.linear(X, CSR), 2 * 8),
    "sparse @ sparse": (lambda: torch.sparse.mm(SPARSE, SPARSE), 8),
    "sampled": (lambda: torch.sparse.sampled_addmm(CSR, A, A), 8 * 8),
    "conv_tbc": (lambda: torch.conv_tbc(SEQUENCES, torch.randn(3, 8, 4), torch.zeros(4)), 5 * 4 * 3 * 8),
    "weighted bags": (
        lambda: functional.embedding_bag(torch.tensor([[1, 2, 3]]), A, mode="sum", per_sample_weights=torch.ones(1, 3)),
        3 * 8,
    ),
    "attention with shared heads": (
        lambda: functional.scaled_dot_product_attention(QUERY, SHARED, SHARED, enable_gqa=True),
        2 * 8 * 5 * 6 * (4 + 4),
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_counted_as_by_hand(name):
    product, macs = PRODUCTS[name]
    with torch.no_grad():
        assert count_macs(product)[1] == macs


@torch.library.custom_op("suffice_test::squared", mutates_args=())
def squared(x: torch.Tensor) -> torch.Tensor:
    return x @ x.mT


UNCOUNTED = {
    "_fft_r2c": lambda: torch.fft.rfft(X),
    "linalg_inv_ex": lambda: torch.linalg.inv(A),
    "_linalg_eigh": lambda: torch.linalg.eigh(A),
    "linalg_matrix_exp": lambda: torch.linalg.matrix_exp(A),
    "linalg_cholesky_ex": lambda: torch.linalg.cholesky(torch.eye(8)),
    "suffice_test::squared": lambda: squared(A),
    "cond": lambda: torch.cond(A.sum() > 9, lambda a: a @ a, lambda a: a + 1, (A,)),
}


@pytest.mark.parametrize("name", UNCOUNTED)
def test_operations_that_multiply_and_have_no_formula_are_named(name):
    with torch.no_grad(), pytest.warns(UserWarning, match=f"the multiply-adds of {name} are not counted.*pass costs="):
        count_macs(UNCOUNTED[name])


def test_operations_that_do_not_multiply_matrices_give_no_warning():
    images = torch.rand(1, 2, 8, 8)

    def run():
        functional.interpolate(images, scale_factor=2, mode="bilinear")
        functional.layer_norm(functional.avg_pool2d(images, 2), (4,))
        torch.linalg.vector_norm(torch.linalg.cross(A[:, :3], A[:, 3:6]))
        return functional.unfold(images, 3).softmax(-1).cumprod(-1)

    assert count_macs(run)[1] == 0


def test_a_model_with_an_uncounted_operation_is_named_by_its_costs():
    class Spectral(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).real

    model = nn.Sequential(nn.Linear(8, 8), Spectral(), nn.Linear(8, 4))
    with pytest.warns(UserWarning, match="_fft_r2c"):
        assert cost.macs(model, X) == 8 * 8 + 8 * 4
