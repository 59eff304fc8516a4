import pytest
import torch

from suffice.variation.features.scaling import Scaling


def features(n=1000, width=5, seed=0):
    return 1 + torch.rand(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("outputs", "strengths"), [(1, 1), (2, 50), (100, 1), (3, 0)])
def test_strengths_weigh_at_most_a_quarter_of_the_output_and_never_more_than_one_each(outputs, strengths):
    weight = Scaling.weights(torch.arange(outputs + strengths), outputs)
    assert torch.equal(weight[:outputs], torch.ones(outputs))
    assert (weight[outputs:] <= 1).all()
    heaviest = min(outputs / 4, float(strengths))
    assert float(weight[outputs:].square().sum()) == pytest.approx(heaviest if strengths else 0, rel=1e-6)


def test_output_features_are_selected_and_inactive_or_constant_strengths_are_not():
    rows = features()
    rows[:, 2] = 7.0
    rows[5:, 3] = 0.0  # on in 0.5 % of the rows
    rows[20:, 4] = 0.0  # on in 2 % of them
    assert Scaling.fit(rows, 2).columns.tolist() == [0, 1, 4]


def test_inputs_are_standard_scores_clipped_at_four_deviations():
    rows = features()
    scaling = Scaling.fit(rows, 5)
    inputs = scaling.apply(rows).inputs
    torch.testing.assert_close(inputs.mean(dim=0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std(dim=0), torch.ones(5))
    far = scaling.apply(torch.tensor([[1e6, -1e6, 1.5, 1.5, 1.5]]))
    assert far.inputs[0, :2].tolist() == [4.0, -4.0]
    assert float(far.clipped) == pytest.approx(2 / 5)


def test_rows_that_are_all_the_same_are_refused():
    with pytest.raises(ValueError, match="expected training rows that differ, got 9 rows"):
        Scaling.fit(torch.ones(9, 4), 2)
