import pytest
import torch

from suffice.calibration.posterior.orthonormal import check_orthonormal, rounding_bound
from suffice.storage.parts import Parts

PARTS = Parts({}, {}, "the file")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 7, 65, 513])
def test_what_a_decomposition_gives_is_orthonormal_in_any_type_and_what_was_changed_is_not(size, dtype):
    generator = torch.Generator().manual_seed(size)
    a = torch.randn(size + 3, size, dtype=torch.float64, generator=generator)
    gamma = torch.rand(size, dtype=torch.float64, generator=generator) + 0.01
    V = (torch.linalg.eigh(a.T @ a)[1] / gamma.sqrt()[:, None]).to(dtype)
    check_orthonormal(PARTS, "V", V, gamma.to(dtype))
    first = torch.tensor([0])
    for change in (V * (1 + 1e-2), V.roll(1, dims=0) if size > 1 else -2 * V, V.index_fill(1, first, 0.0)):
        with pytest.raises(ValueError, match="expected tensor V to be of orthonormal columns, got columns that are"):
            check_orthonormal(PARTS, "V", change, gamma.to(dtype))
    assert rounding_bound(V) < 1e-2 / size**0.5


def test_a_column_whose_entries_were_all_rounded_up_is_accepted():
    """γv²n = 1 with v and γ both rounded up by nearly half a unit, without cancellation."""
    unit = torch.finfo(torch.float32).eps / 2

    def stored(n, gamma):
        v = torch.full((n, 1), (n * gamma) ** -0.5, dtype=torch.float64).float()
        return v, torch.full((n,), gamma, dtype=torch.float64).float()

    def excess(n, gamma):
        v, weight = (float(tensor.flatten()[0]) for tensor in stored(n, gamma))
        return n * weight * v**2 - 1

    worst = max(((n, 1 + k / 1000) for n in range(1, 20) for k in range(100)), key=lambda case: excess(*case))
    assert excess(*worst) > 2.5 * unit
    check_orthonormal(PARTS, "V", *stored(*worst))
