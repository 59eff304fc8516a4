import torch

from suffice.variation.features.reader import output_features


def test_output_features_depend_on_the_likelihood():
    z = torch.tensor([[-2.0], [1.0]])
    assert output_features(z, "regression").tolist() == z.tolist()
    assert output_features(z, "binary")[:, 1].tolist() == [2, 1]
