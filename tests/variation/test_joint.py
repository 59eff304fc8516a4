import pytest
import torch
from torch import nn

import suffice
from suffice.variation.joint import JointHead
from suffice.variation.teachers.dropout import MCDropout
from tests.robustness.surroundings import anywhere

TEACHER = MCDropout(passes=2, likelihood="regression")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n, seed=0):
    return torch.randn(n, 3, generator=seeded(seed))


def trained(head=None, steps=500):
    """Train a tower to add up its inputs, jointly with a head if a function that makes one is given."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        head = head and head(model)
        for seed in range(steps):
            x = rows(64, seed)
            optimizer.zero_grad()
            (model(x)[:, 0] - x.sum(dim=1)).square().mean().backward()
            optimizer.step()
            if head is not None:
                head.step(x)
    return model, head


def test_a_jointly_trained_head_learns_the_variation_of_the_trained_model():
    model, head = trained(lambda model: JointHead(model, teacher=TEACHER, generator=seeded()))
    estimator = head.finish([rows(2000, seed=10_000)])
    x = rows(500, seed=10_001)
    truth = MCDropout(passes=2000, likelihood="regression")(model, x, generator=seeded(1))["std"]
    _, variation = estimator(x)
    assert float(1 - (variation - truth).square().mean() / truth.var()) > 0.85
    assert estimator.quality.r_squared > 0.8


def test_the_model_is_the_same_as_without_a_head():
    with_head, head = trained(lambda model: JointHead(model, teacher=TEACHER, generator=seeded()), steps=20)
    without, _ = trained(steps=20)
    assert all(torch.equal(a, b) for a, b in zip(with_head.parameters(), without.parameters(), strict=True))
    assert with_head.training
    assert head.steps == 20


def test_the_estimator_of_a_head_survives_saving(tmp_path):
    model, head = trained(lambda model: JointHead(model, teacher=TEACHER, generator=seeded()), steps=20)
    estimator = head.finish([rows(50, seed=10_000)])
    suffice.save(estimator, tmp_path / "estimator")
    again = suffice.load(tmp_path / "estimator", network=model)
    assert all(map(torch.equal, again(rows(9)), estimator(rows(9))))


def test_a_head_without_a_step_or_with_auto_layers_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 1))
    with pytest.raises(ValueError, match="at least one step, got none"):
        JointHead(model, teacher=TEACHER).finish([rows(9)])
    with pytest.raises(ValueError, match="named layers, got 'auto'"):
        JointHead(model, teacher=TEACHER, layers="auto")
    with pytest.raises(TypeError, match="got the class MCDropout; make one"):
        JointHead(model, teacher=MCDropout)


@anywhere
def test_the_modes_of_the_caller_change_nothing(surrounding):
    model, _ = trained(steps=1)
    inputs, loader = [rows(30, seed) for seed in range(3)], [rows(40, seed=9)]
    heads = [JointHead(model, teacher=TEACHER, generator=seeded()) for _ in range(2)]
    expected = [heads[0].step(x) for x in inputs], heads[0].finish(loader)
    with surrounding():
        actual = [heads[1].step(x) for x in inputs], heads[1].finish(loader)
    assert actual[0] == expected[0]
    assert all(map(torch.equal, actual[1](loader[0]), expected[1](loader[0])))


def test_margins_of_a_model_that_still_changes_use_its_weights():
    """Factors of a weight would be those of the first step."""
    model = nn.Sequential(
        *(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.3)), nn.Linear(16, 1)
    )
    head = JointHead(model, teacher=TEACHER, layers=["<margins>"], generator=seeded())
    head.step(rows(64))
    assert head._reader.head.factors == (None,)
