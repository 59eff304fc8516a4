import torch

from suffice.variation.features.reader import output_features


def test_output_features_depend_on_the_likelihood():
    z = torch.tensor([[-2.0], [1.0]])
    assert output_features(z, "regression").tolist() == z.tolist()
    assert output_features(z, "binary")[:, 1].tolist() == [2, 1]


def test_the_features_of_labels_are_those_of_binary_questions():
    z = torch.tensor([[-2.0, 0.5], [1.0, 3.0]])
    assert torch.equal(output_features(z, "multilabel"), output_features(z, "binary"))
