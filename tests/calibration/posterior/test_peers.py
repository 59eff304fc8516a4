"""The Kronecker posterior compared with other libraries, for a head without a bias (which they treat separately)."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from suffice.calibration.exits import weights_with_bias
from suffice.calibration.posterior import kronecker
from tests.calibration.posterior.conformance import problem

DELTAS = [0.01, 1.0, 30.0]


@pytest.fixture(scope="module")
def head():
    """Features (N, D), labels and a linear layer (C, D) that fits them, float64."""
    phi, logits = problem(200, 6, 4, spread=2.0)
    labels = logits.softmax(dim=1).multinomial(1, generator=torch.Generator().manual_seed(0))[:, 0]
    linear = nn.Linear(6, 4, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.linalg.lstsq(phi, logits).solution.T)
    return phi, labels, linear


def fitted(head, delta):
    phi, _, linear = head
    sums = kronecker.update(kronecker.init(6, 4), phi, linear(phi).detach())
    return sums, kronecker.Posterior.fit(sums, delta)


@pytest.mark.parametrize("delta", DELTAS)
def test_laplace_torch_has_the_same_factors_variances_and_evidence(head, delta):
    laplace = pytest.importorskip("laplace")
    from laplace.curvature import CurvlinopsGGN

    phi, labels, linear = head
    model = nn.Sequential(nn.Identity(), linear)
    options = {"last_layer_name": "1", "prior_precision": delta, "backend": CurvlinopsGGN}
    reference = laplace.KronLLLaplace(model, "classification", **options)
    reference.fit(DataLoader(TensorDataset(phi, labels), 50))

    sums, posterior = fitted(head, delta)
    ((U, A),) = reference.H_facs.kfacs
    torch.testing.assert_close(sums.hessian, U)
    torch.testing.assert_close(sums.features / sums.count, A)
    mean, covariance = reference._glm_predictive_distribution(phi[:20])
    torch.testing.assert_close(posterior.covariance(phi[:20]), covariance, rtol=1e-6, atol=1e-9)
    logits = linear(phi).detach()
    torch.testing.assert_close(logits[:20], mean)
    log_likelihood = logits.log_softmax(dim=1).gather(1, labels[:, None]).sum()
    evidence = posterior.log_marginal_likelihood(weights_with_bias(linear, None), log_likelihood)
    torch.testing.assert_close(evidence, reference.log_marginal_likelihood().detach().double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("delta", DELTAS)
def test_curvlinops_has_the_same_inverse(head, delta):
    curvlinops = pytest.importorskip("curvlinops")
    phi, labels, linear = head
    loss = nn.CrossEntropyLoss(reduction="sum")
    kfac = curvlinops.KFACLinearOperator(linear, loss, [linear.weight], [(phi, labels)], fisher_type="type-2")
    inverse = curvlinops.KFACInverseLinearOperator(kfac, damping=delta, use_exact_damping=True)
    dense = inverse @ torch.eye(24, dtype=torch.float64)
    jacobians = torch.einsum("cC,nd->ncCd", torch.eye(4, dtype=torch.float64), phi[:20]).flatten(2)
    expected = jacobians @ dense @ jacobians.mT
    torch.testing.assert_close(fitted(head, delta)[1].covariance(phi[:20]), expected, rtol=1e-6, atol=1e-9)
