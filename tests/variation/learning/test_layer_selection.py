import pytest
import torch

from suffice.variation.features.reader import Reader
from suffice.variation.learning.layer_selection import _greedy_order, select_layers
from suffice.variation.learning.objective import Objective
from suffice.variation.learning.rows import Rows
from suffice.variation.learning.target import Target


def rows(n, informative, seed):
    """Make rows of an output and three layers of two strengths; the label depends on those of one layer alone."""
    features = torch.rand(n, 7, generator=torch.Generator().manual_seed(seed))
    labels = features[:, 1 + 2 * informative : 3 + 2 * informative].sum(dim=1, keepdim=True).square()
    return Rows(features, (1, 2, 2, 2), labels.repeat(1, 2), 2)


@pytest.mark.parametrize("informative", [0, 1, 2])
def test_the_one_informative_layer_is_selected(informative):
    train, stopping = rows(600, informative, 0), rows(200, informative, 1)
    objective = Objective(train, stopping, float(train.labels.mean()), Target("std"), (16,), 60, 0)
    reader = Reader(("a", "b", "c"), "value", "regression", None)
    fitted, chosen, table = select_layers(objective, reader, 1000, [0, 0, 70])
    assert chosen == [informative]
    assert [len(row["layers"]) for row in table] == [0, 1, 3]
    assert table[1]["layers"] == [("a", "b", "c")[informative]]
    assert table[1]["macs"] == fitted.macs + (70 if informative == 2 else 0)
    assert table[2]["macs"] > table[1]["macs"]


def test_a_layer_that_repeats_the_output_comes_last():
    """With the features of the output, only what a layer adds to them matters."""
    train, stopping = rows(600, 0, 0), rows(200, 0, 1)
    for part in (train, stopping):
        part.features[:, 0] = 3 * part.features[:, 1]
        part.features[:, 2] = part.features[:, 0]
        part.labels.copy_((part.features[:, 0] + 0.5 * part.features[:, 3]).square()[:, None])
    objective = Objective(train, stopping, float(train.labels.mean()), Target("std"), (16,), 60, 0)
    assert _greedy_order(objective, 3)[0] == 1
