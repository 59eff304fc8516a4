import pytest
import torch

from suffice.calibration import statistics
from suffice.calibration.exits import CalibratedExit
from suffice.calibration.likelihoods import LIKELIHOODS, linear
from tests import builders

X = builders.inputs(50)
LIKELIHOOD = LIKELIHOODS["regression"]()


def exits(net, bias=0.5):
    return [CalibratedExit(1.0, bias, likelihood=LIKELIHOOD) for _ in net.exits]


def test_residual_statistics_are_those_of_every_exits_features_and_all_examples():
    net = builders.network()
    targets = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    sums = statistics.residual_statistics(net, builders.batched(X, targets), exits(net))
    state = X
    for k, each in enumerate(sums):
        state, phi = net.advance(k, state)
        constant = torch.full((50, 1), 0.5)
        means = net.exit(k).classifier(phi).detach()
        phi = torch.cat([phi.detach(), constant], dim=1)
        whole = linear.update(linear.init(phi.shape[1], 4), phi, means, targets)
        assert each.count == 50
        torch.testing.assert_close(each.squares, whole.squares)
        torch.testing.assert_close(each.features, whole.features)


def test_features_that_are_not_finite_are_refused_with_exit_and_position():
    net = builders.poison(builders.network(), X, 21)
    with pytest.raises(ValueError, match=r"features at exit 1.* position 21"):
        statistics.residual_statistics(net, builders.batched(X, torch.zeros(50, 4)), exits(net))
