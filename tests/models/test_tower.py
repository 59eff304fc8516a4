import pytest
import torch
from torch import nn

from suffice import cost, models

CARDINALITIES = [7, 3, 11]


def batch(count, numeric=2):
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randint(c, (count,), generator=generator) for c in CARDINALITIES], dim=1)
    return {"categorical": ids, "numeric": torch.randn(count, numeric, generator=generator)}


def test_a_tower_equals_a_table_for_each_field_and_the_hidden_layers():
    net, x = models.tower(CARDINALITIES, numeric=2, embedding=4, hidden=(6, 5)).eval(), batch(20)
    first, table = net.stages[0], net.stages[0][0].table.weight
    tables = [nn.Embedding.from_pretrained(part) for part in table.split(CARDINALITIES)]
    h = torch.cat([*(t(column) for t, column in zip(tables, x["categorical"].T, strict=True)), x["numeric"]], dim=1)
    h = first[4](first[1](h).relu()).relu()
    torch.testing.assert_close(net(x)[-1], net.exit(0).classifier(h))


def test_ids_without_numbers_need_no_mapping():
    net, ids = models.tower(CARDINALITIES).eval(), batch(9)["categorical"]
    assert torch.equal(net(ids)[0], net({"categorical": ids})[0])
    assert net(ids)[0].shape == (9, 1)


def test_earlier_exits_follow_the_given_hidden_layers():
    net = models.tower(CARDINALITIES, num_classes=4, numeric=2, hidden=(9, 8, 7), exits_after=(1, 2))
    assert [tuple(logits.shape) for logits in net(batch(5))] == [(5, 4)] * 3
    assert [net.exit(k).classifier.in_features for k in range(3)] == [9, 8, 7]
    costs = cost.count(net, batch(5))
    assert costs.stages == ((3 * 16 + 2) * 9, 9 * 8, 8 * 7)
    with pytest.raises(ValueError, match="to increase strictly within 1 to 2, numbers of hidden layers out of 3"):
        models.tower(CARDINALITIES, hidden=(9, 8, 7), exits_after=(3,))


def test_dropout_is_on_the_hidden_layers_and_optionally_on_the_embeddings():
    def rates(**options):
        net = models.tower(CARDINALITIES, hidden=(6, 5), **options)
        return [module.p for module in net.modules() if isinstance(module, nn.Dropout)]

    assert rates(dropout=0.3) == [0.0, 0.3, 0.3]
    assert rates(dropout=0.3, embedding_dropout=0.1) == [0.1, 0.3, 0.3]
    embeddings = models.tower(CARDINALITIES, numeric=2, embedding_dropout=0.9).stages[0][0]
    x = batch(50)
    out = embeddings(x)
    assert (out[:, :-2] == 0).float().mean() > 0.8
    assert torch.equal(out[:, -2:], x["numeric"])


@pytest.mark.parametrize(("row", "field", "value"), [(3, 1, 3), (0, 2, 11), (8, 0, -1)])
def test_an_id_out_of_its_fields_range_is_named_and_does_not_read_its_neighbours_embedding(row, field, value):
    ids = batch(9)["categorical"]
    ids[row, field] = value
    with pytest.raises(ValueError, match=rf"in field {field}, got {value} in row {row} of the batch"):
        models.tower(CARDINALITIES)(ids)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (batch(4)["categorical"][:, :2], r"ids \(4, 2\) and 0"),
        (batch(4)["categorical"][0], r"ids \(3,\) and 0"),
        (batch(4), r"ids \(4, 3\) and 2"),
    ],
)
def test_other_numbers_of_fields_are_refused(x, message):
    with pytest.raises(ValueError, match=rf"expected ids \(N, 3\) and 0 numeric columns, got {message}"):
        models.tower(CARDINALITIES)(x)


@pytest.mark.parametrize("options", [{"cardinalities": []}, {"cardinalities": [3], "hidden": ()}])
def test_a_tower_without_fields_or_layers_is_refused(options):
    with pytest.raises(ValueError, match="expected at least one field and one hidden layer"):
        models.tower(**options)
