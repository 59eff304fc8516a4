import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import suffice
from suffice.deploy.graphs.ranges import index_ranges, joined
from suffice_runtime import Runner
from tests.deploy import models


class Tables(nn.Module):
    def __init__(self, look_up):
        super().__init__()
        self.table, self.look_up = nn.Embedding(7, 3), look_up
        self.bag = nn.EmbeddingBag(5, 3, mode="mean", padding_idx=0)

    def per_row(self, other):
        return self.table.weight[:, 0].expand(other.shape[0], 7)

    def forward(self, ids, other):
        return self.look_up(self, ids, other)


@pytest.mark.parametrize(
    ("look_up", "expected"),
    [
        (lambda self, ids, other: self.table(ids), {"ids": (0, 6)}),
        (lambda self, ids, other: self.table(ids.long().unsqueeze(1)), {"ids": (0, 6)}),
        (lambda self, ids, other: self.table(ids) + self.table(other), {"ids": (0, 6), "other": (0, 6)}),
        (lambda self, ids, other: functional.one_hot(other, 5).float(), {"other": (0, 4)}),
        (lambda self, ids, other: self.table.weight.index_select(0, ids[:, 0]), {}),  # one column
        (
            lambda self, ids, other: self.table.weight.index_select(0, ids[:, 1:].flatten()),
            {},
        ),  # not all
        (lambda self, ids, other: self.bag(ids), {"ids": (0, 4)}),
        (lambda self, ids, other: self.per_row(other).gather(1, ids[:]), {"ids": (0, 6)}),
        (lambda self, ids, other: self.per_row(other).scatter(1, ids, 1.0), {"ids": (0, 6)}),
        (lambda self, ids, other: self.per_row(other).scatter(1, ids, other.float()), {"ids": (0, 6)}),
        (lambda self, ids, other: self.per_row(other).scatter_add(1, ids, other.float()), {"ids": (0, 6)}),
        (lambda self, ids, other: self.per_row(other).scatter_reduce(1, ids, other.float(), "sum"), {"ids": (0, 6)}),
        (lambda self, ids, other: self.table(ids + 1), {}),  # another number
        (lambda self, ids, other: self.table(ids) + functional.one_hot(ids, 3).float(), {"ids": (0, 2)}),
    ],
)
def test_an_input_that_is_an_index_as_it_is_has_the_range_of_the_smallest_table(look_up, expected):
    ids, rows = torch.ones(4, 2, dtype=torch.long), torch.export.Dim("N")
    with torch.no_grad():
        program = torch.export.export(
            Tables(look_up).eval(), (ids, ids.clone()), dynamic_shapes=2 * ({0: rows},), strict=False
        )
    assert index_ranges(program, ["ids", "other"]) == expected


def test_ranges_of_several_graphs_are_joined():
    assert joined([{"a": (0, 4)}, {"a": (0, 2), "b": (0, 9)}, {}]) == {"a": (0, 2), "b": (0, 9)}


@pytest.mark.parametrize("number", [-1, models.VOCABULARY])
def test_ids_out_of_range_are_refused_by_their_position(text_bundle, number):
    manifest = json.loads((text_bundle.folder / "manifest.json").read_text())
    ranges = {value["name"]: value.get("range") for value in manifest["inputs"]}
    assert ranges == {"input_ids": [0, models.VOCABULARY - 1], "attention_mask": None}
    x = {name: tensor.numpy().copy() for name, tensor in models.texts(6).items()}
    x["input_ids"][4, 1] = number
    with pytest.raises(ValueError, match=f"from 0 to 19 in the input 'input_ids', got {number} at position 4"):
        Runner(text_bundle.folder).run(x)
    served = list(Runner(text_bundle.folder).run_stream([x]))
    assert [error.position for error in served[0].errors] == [4]
    assert np.isfinite(served[0].answer.probs).all()


def test_a_quantized_network_refuses_them_too():
    calibrated, x = models.calibrated_text(), models.texts(40)
    quantized = suffice.quantize(calibrated, [x])
    x["input_ids"][4, 1] = -1
    with pytest.raises(ValueError, match="from 0 to 19 in the input 'input_ids', got -1 to"):
        quantized(x)


def test_an_estimator_alone_refuses_ids_out_of_range(tmp_path):
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.positions = nn.Embedding(20, 4), nn.Parameter(torch.randn(12, 4))
            self.head = nn.Linear(4, 3)

        def forward(self, ids):
            return self.head((self.table(ids) + self.positions[: ids.shape[1]]).relu().mean(dim=1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, ids = Positions().eval(), torch.randint(20, (60, 8))
    estimator = suffice.fit_variation(
        model, [ids], [ids], teacher=suffice.MCDropout(passes=3, at=["table"], rate=0.2), layers=[], epochs=1
    )
    suffice.export(estimator, tmp_path / "bundle", example=ids)
    ids[3, 2] = -1
    with pytest.raises(ValueError, match="from 0 to 19 in the input 'input', got -1 at position 3"):
        Runner(tmp_path / "bundle").estimate(ids.numpy())
