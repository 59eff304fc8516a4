"""Predictions of every structure and link for features of any scale and rank and any prior, alone and in batches.

The oracle of the moments is the dense precision with 60 digits, from the same float32 features; that of the links is
the same exit in float64. With κ = (largest eigenvalue + δ)/δ the variance of the
logits at φ is at least ‖φ‖²/(κδ), and a relative error ε of the projections of φ changes it by at most

    2ε √κ + ε² κ     of itself, times a modest constant

because the worst φ has equal variance along a direction without training features and along all others.
"""

import math
from dataclasses import replace

import mpmath
import pytest
import torch
from torch import Tensor

from suffice.calibration.exits import CalibratedExit
from suffice.calibration.likelihoods import LIKELIHOODS
from suffice.calibration.posterior import STRUCTURES

SCALES = [1e-3, 1.0, 1e4]
DELTAS = [1e-6, 1e-3, 1.0, 1e6]
LINKS = ["sampled", "meanfield", "probit", "plugin"]
SINGLE, DOUBLE = torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps


def features(n: int, width: int, rank: int, scale: float, seed: int = 0) -> Tensor:
    """Float32 features (n, width) of a maximum rank; with a seed, a tenth of them leave that subspace."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(rank, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    phi = torch.randn(n, rank, generator=generator, dtype=torch.float64) @ mixing
    if seed:
        phi[::10] += torch.randn(len(phi[::10]), width, generator=generator, dtype=torch.float64)
    return (scale * phi).float()


def logits_of(phi: Tensor, classes: int, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    head = torch.randn(phi.shape[1], classes, generator=generator, dtype=torch.float64)
    return (phi.double() @ head / scale / 3).float()


def fitted(structure: str, phi: Tensor, logits: Tensor, delta: float):
    module = STRUCTURES[structure]
    statistics = module.update(module.init(phi.shape[1], logits.shape[1]), phi, logits)
    return module.Posterior.fit(statistics, delta)


def contrast(structure: str, phi: Tensor, logits: Tensor, delta: float) -> float:
    """Upper bound of κ."""
    strongest = float(torch.linalg.matrix_norm(phi.double(), 2)) ** 2
    return 1 + strongest / 2 / delta  # no eigenvalue of diag(p) − ppᵀ is above 1/2


def dense_precision(structure: str, phi: Tensor, logits: Tensor, delta: float) -> mpmath.matrix:
    """H + δI, (C·D, C·D) with the classes outermost, of the structure's H."""
    rows = [mpmath.matrix([row]) for row in phi.double().tolist()]
    outers = [row.T * row for row in rows]
    hessians = [_hessian(row) for row in logits.double().tolist()]
    if structure in ("kronecker", "lowrank"):
        hessians, outers = [_total(hessians)], [_total(outers) / len(rows)]
    elif structure == "blocks":
        hessians = [_diagonal(matrix) for matrix in hessians]
    elif structure == "diagonal":
        hessians, outers = ([_diagonal(matrix) for matrix in matrices] for matrices in (hessians, outers))
    products = (_product(hessian, outer) for hessian, outer in zip(hessians, outers, strict=True))
    return _total(list(products)) + delta * mpmath.eye(logits.shape[1] * phi.shape[1])


def _hessian(logits: list[float]) -> mpmath.matrix:
    """diag(p) − ppᵀ."""
    exponentials = [mpmath.exp(value) for value in logits]
    p = mpmath.matrix(exponentials) / mpmath.fsum(exponentials)
    return mpmath.diag(list(p)) - p * p.T


def _total(matrices: list[mpmath.matrix]) -> mpmath.matrix:
    total = matrices[0]
    for matrix in matrices[1:]:
        total = total + matrix
    return total


def _diagonal(matrix: mpmath.matrix) -> mpmath.matrix:
    return mpmath.diag([matrix[i, i] for i in range(matrix.rows)])


def _product(a: mpmath.matrix, b: mpmath.matrix) -> mpmath.matrix:
    """a ⊗ b."""
    size = b.rows
    return mpmath.matrix(
        [[a[i // size, j // size] * b[i % size, j % size] for j in range(a.rows * size)] for i in range(a.rows * size)]
    )


def dense_variance(structure: str, phi: Tensor, logits: Tensor, delta: float, at: Tensor) -> Tensor:
    """Variance (N, C) of the logits at rows of `at`, with 60 digits."""
    width, classes = phi.shape[1], logits.shape[1]
    with mpmath.workdps(60):
        inverse = mpmath.inverse(dense_precision(structure, phi, logits, delta))
        blocks = [inverse[c * width : (c + 1) * width, c * width : (c + 1) * width] for c in range(classes)]
        points = [mpmath.matrix([row]) for row in at.double().tolist()]
        variances = [[float((point * block * point.T)[0]) for block in blocks] for point in points]
    return torch.tensor(variances, dtype=torch.float64)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize(("n", "rank"), [(40, 5), (40, 2), (3, 5)])
def test_variances_are_those_of_the_dense_precision(structure, scale, delta, n, rank):
    phi, at = features(n, 5, rank, scale), features(10, 5, rank, scale, seed=1)[::3]
    logits = logits_of(phi, 3, scale)
    kappa, posterior = contrast(structure, phi, logits, delta), fitted(structure, phi, logits, delta)
    # Sums of n products have an error of n ε times the largest eigenvalue, which acts like a change of δ.
    conditioning = n * DOUBLE * kappa
    if conditioning > 0.01:
        pytest.skip("double precision sums do not determine the smallest eigenvalues beside this δ")
    allowed = 4 * conditioning + 20 * (DOUBLE * math.sqrt(kappa) + SINGLE)
    if structure == "lowrank":
        allowed += 1e-6  # error of the interpolation between resolvents
    expected = dense_variance(structure, phi, logits, delta, at)
    got = posterior.moments(at, logits_of(at, 3, scale)).variance
    assert got.dtype == torch.float32
    assert ((got.double() - expected).abs() <= allowed * expected).all()


def exit_of(likelihood: str, structure: str, link: str, scale: float, delta: float, rank: int, n: int = 60):
    """A calibrated exit of 12 features fitted to n examples, and features and outputs of 40 others."""
    kind = LIKELIHOODS[likelihood]
    outputs = {"binary": 1, "heteroscedastic": 4}.get(likelihood, 4)
    phi, at = features(n, 12, rank, scale), features(40, 12, rank, scale, seed=1)
    logits = logits_of(phi, outputs, scale)
    latents, family = kind.latents(outputs), kind()
    if likelihood == "regression":
        family = replace(family, noise_variance=torch.full((outputs,), 0.5, dtype=torch.float64))
    module = STRUCTURES[structure]
    statistics = module.update(module.init(12, latents), phi, logits, family.curvature)
    plain = CalibratedExit(1.3, None, likelihood=family)
    generator = torch.Generator().manual_seed(0)
    exit_ = plain.with_posterior(module.Posterior.fit(statistics, delta), link, 16, generator)
    return exit_, at, logits_of(at, outputs, scale)


def numbers(prediction) -> Tensor:
    """Probabilities, or mean and logarithms of the variances, (N, …)."""
    if hasattr(prediction, "log_probs"):
        return prediction.probs.double()
    return torch.cat([prediction.mean, prediction.variance.log()], dim=1).double()


def samples_of(exit_: CalibratedExit, at: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Sampled logits (N, S, C) divided by the temperature, and the sums of the absolute values of their terms.

    Other links have one sample, the prediction itself.
    """
    if exit_.offsets is None and exit_.likelihood.name == "multilabel":
        log_odds = exit_.predict(at, outputs).label_log_odds[:, None]
        return log_odds, log_odds.abs()
    if exit_.offsets is None:
        log_probs = exit_.predict(at, outputs).log_probs[:, None]
        return log_probs, log_probs.abs()
    if exit_.likelihood.name == "binary":
        outputs = torch.cat([torch.zeros_like(outputs), outputs], dim=1)
        coefficients = exit_.posterior.variance(exit_.spectrum(at)).sqrt()
    elif exit_.likelihood.name == "multilabel":  # the logits of labels, which are independent
        coefficients = exit_.posterior.variance(exit_.spectrum(at)).sqrt()[:, None]
    else:
        coefficients = exit_.posterior.coefficients(exit_.spectrum(at), exit_.offsets)
    if exit_.likelihood.name == "multilabel":
        terms = coefficients[:, None] * exit_.offsets.values
    else:
        terms = coefficients[:, :, None, None] * exit_.offsets.values
    return (
        (outputs[:, None] + terms.sum(dim=1)) / exit_.temperature,
        (outputs[:, None].abs() + terms.abs().sum(dim=1)) / exit_.temperature,
    )


def allowed_error(exact: CalibratedExit, at: Tensor, outputs: Tensor, kappa: float) -> Tensor:
    """Bound on the error of a prediction, from a relative error ε of logits, deviations and variances.

    A change of the logits by up to η changes the odds of a class by a factor of up to exp(2η).
    """
    relative = 30 * (SINGLE + DOUBLE * math.sqrt(kappa))
    if exact.likelihood.name in ("regression", "heteroscedastic"):
        mean = exact.predict(at, outputs).mean
        return torch.cat([relative * mean.abs(), torch.full_like(mean, relative) * (1 + outputs.abs().amax())], dim=1)
    samples, sizes = samples_of(exact, at, outputs)
    moved = relative * (1 + sizes.amax(dim=2, keepdim=True))
    log_odds = samples
    if exact.likelihood.name != "multilabel":
        log_odds = torch.logit(samples.softmax(dim=2).clamp(1e-300, 1 - 1e-16))
    most, least = (log_odds + 2 * moved).sigmoid(), (log_odds - 2 * moved).sigmoid()
    return (most - least).mean(dim=1) + relative


CASES = [
    *[("classification", structure, link) for structure in STRUCTURES for link in LINKS],
    *[("binary", "full", link) for link in LINKS],
    ("binary", "kronecker", "sampled"),
    *[("multilabel", "blocks", link) for link in LINKS],
    ("multilabel", "kronecker", "sampled"),
    ("regression", "kronecker", "plugin"),
    ("regression", "kronecker", "probit"),
    ("heteroscedastic", "full", "probit"),
    ("heteroscedastic", "kronecker", "sampled"),
]


@pytest.mark.parametrize(("likelihood", "structure", "link"), CASES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("delta", DELTAS)
def test_answers_are_those_of_float64_alone_and_in_company(likelihood, structure, link, scale, delta):
    for rank, n in [(12, 60), (3, 60), (12, 5)]:
        exit_, at, outputs = exit_of(likelihood, structure, link, scale, delta, rank, n)
        served = exit_.to(torch.device("cpu"), torch.float32)
        phi = features(n, 12, rank, scale)
        kappa = min(contrast(structure, phi, outputs, delta), 1 / DOUBLE)
        wide = exit_.to(torch.device("cpu"), torch.float64)
        exact = numbers(wide.predict(at.double(), outputs.double()))
        together = numbers(served.predict(at, outputs))
        alone = torch.cat([numbers(served.predict(f, o)) for f, o in zip(at.split(1), outputs.split(1), strict=True)])
        allowed = allowed_error(wide, at.double(), outputs.double(), kappa)
        assert together.isfinite().all()
        assert ((together - exact).abs() <= allowed).all()
        assert ((alone - together).abs() <= allowed).all()
