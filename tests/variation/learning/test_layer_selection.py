import pytest
import torch

from suffice.variation.features.reader import Reader
from suffice.variation.learning.layer_selection import smallest
from suffice.variation.learning.objective import Problem
from suffice.variation.learning.rows import Rows


def rows(n, telling, seed):
    """Output, then three layers of two strengths each; the variance follows those of one layer alone."""
    features = torch.rand(n, 7, generator=torch.Generator().manual_seed(seed))
    labels = features[:, 1 + 2 * telling : 3 + 2 * telling].sum(dim=1, keepdim=True).square()
    return Rows(features, (1, 2, 2, 2), labels.expand(n, 2), 2)


@pytest.mark.parametrize("telling", [0, 1, 2])
def test_the_one_layer_that_tells_is_found(telling):
    seen, unseen = rows(600, telling, 0), rows(200, telling, 1)
    problem = Problem(seen, unseen, float(seen.labels.mean()), "std", (16,), 60, 0)
    reader = Reader(("a", "b", "c"), "value", "regression", None)
    fit, chosen, table = smallest(problem, reader, 1000)
    assert chosen == [telling]
    assert [len(row["layers"]) for row in table] == [0, 1, 3]
    assert table[1]["layers"] == [("a", "b", "c")[telling]]
    assert table[1]["macs"] == fit.macs
