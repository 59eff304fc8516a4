import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import suffice
from suffice.deploy.graphs.limits import Limits
from suffice.deploy.graphs.ranges import index_ranges, joined
from suffice.deploy.graphs.templates import Template
from suffice.deploy.graphs.values import Value
from suffice.deploy.quantization.quantized import Backbone
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
        (lambda self, ids, other: self.table(ids), {"ids": (6,)}),
        (lambda self, ids, other: self.table(ids.long().unsqueeze(1)), {"ids": (6,)}),
        (lambda self, ids, other: self.table(ids) + self.table(other), {"ids": (6,), "other": (6,)}),
        (lambda self, ids, other: functional.one_hot(other, 5).float(), {"other": (4,)}),
        (lambda self, ids, other: self.table.weight.index_select(0, ids[:, 0]), {"ids": (6, None)}),
        (lambda self, ids, other: self.table.weight.index_select(0, ids[:, 1:].flatten()), {"ids": (None, 6)}),
        (lambda self, ids, other: self.table(ids.unbind(1)[1]) + self.bag(ids[:, :1]), {"ids": (4, 6)}),
        (lambda self, ids, other: self.table(ids.flip(1).split(1, dim=1)[0]) + self.bag(ids), {"ids": (4, 4)}),
        (lambda self, ids, other: self.table(torch.stack([ids[:, 1], ids[:, 0]])), {"ids": (6,)}),
        (lambda self, ids, other: self.table(torch.cat([ids, other])), {}),
        (lambda self, ids, other: self.table(2 * ids), {}),
        (lambda self, ids, other: self.table(ids.clamp(0, 6)), {}),
        (lambda self, ids, other: self.bag(ids), {"ids": (4,)}),
        (lambda self, ids, other: self.per_row(other).gather(1, ids[:]), {"ids": (6,)}),
        (lambda self, ids, other: self.per_row(other).scatter(1, ids, 1.0), {"ids": (6,)}),
        (lambda self, ids, other: self.per_row(other).scatter(1, ids, other.float()), {"ids": (6,)}),
        (lambda self, ids, other: self.per_row(other).scatter_add(1, ids, other.float()), {"ids": (6,)}),
        (lambda self, ids, other: self.per_row(other).scatter_reduce(1, ids, other.float(), "sum"), {"ids": (6,)}),
        (lambda self, ids, other: self.table(ids + 1), {}),  # another number
        (lambda self, ids, other: self.table(ids) + functional.one_hot(ids, 3).float(), {"ids": (2,)}),
    ],
)
def test_an_input_or_a_column_that_is_an_index_as_it_is_has_the_range_of_the_smallest_table(look_up, expected):
    ids, rows = torch.ones(4, 2, dtype=torch.long), torch.export.Dim("N")
    with torch.no_grad():
        program = torch.export.export(
            Tables(look_up).eval(), (ids, ids.clone()), dynamic_shapes=2 * ({0: rows},), strict=False
        )
    assert index_ranges(program, ["ids", "other"]) == expected


def test_ranges_of_several_graphs_are_joined():
    assert joined([{"a": (4,)}, {"a": (0, 2), "b": (9,)}, {}]) == {"a": (0, 2), "b": (9,)}


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
        model, [ids], [ids.flip(1)], teacher=suffice.MCDropout(passes=3, at=["table"], rate=0.2), layers=[], epochs=1
    )
    suffice.export(estimator, tmp_path / "bundle", example=ids)
    ids[3, 2] = -1
    with pytest.raises(ValueError, match="from 0 to 19 in the input 'input', got -1 at position 3"):
        Runner(tmp_path / "bundle").estimate(ids.numpy())


class Tower(nn.Module):
    """Table for each column of the ids, and one for their sums, which no range is known for."""

    def __init__(self, sums):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, 4) for size in (5, 9, 3))
        self.sums = nn.Embedding(20, 4) if sums else None
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, ids):
        found = sum(table(ids[:, j]) for j, table in enumerate(self.tables))
        found = found if self.sums is None else found + self.sums(ids[:, 0] + ids[:, 1])
        return self.head(self.body(found).relu())


def tower_bundle(folder, sums):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tower(sums).eval()
        ids = torch.stack([torch.randint(size, (60,)) for size in (5, 9, 3)], dim=1)
    network = models.drawn(suffice.attach_exits(model, at=["body"], example=ids[:4]))
    calibrated = suffice.calibrate(network, None, [(ids, torch.arange(60) % 3)], structure=None, temperature=False)
    suffice.export(calibrated, folder, example=ids[:2], policy=suffice.allocate(calibrated, [ids], 1.0))
    return calibrated, ids


def test_columns_have_a_range_each(tmp_path):
    calibrated, ids = tower_bundle(tmp_path / "bundle", sums=False)
    runner = Runner(tmp_path / "bundle")
    assert runner.manifest.inputs[0].ranges == ((0, 4), (0, 8), (0, 2))
    np.testing.assert_allclose(runner.predict(ids.numpy())[-1].probs, calibrated(ids)[-1].probs, atol=1e-6)
    for column, number, most in ((0, -1, 4), (1, 9, 8), (2, 3, 2)):
        wrong = ids.clone()
        wrong[7, column] = number
        message = f"from 0 to {most} in column {column} of the input 'input', got {number} at position 7"
        with pytest.raises(ValueError, match=message):
            runner.run(wrong.numpy())
    value, limits = Value("input", "int64", ("N", 3)), Limits({"input": (4, None, 2)})
    backbone = Backbone(b"", (value,), Template.of(ids), Template.of(ids), limits)
    assert backbone.feed(ids)["input"].shape == (60, 3)
    with pytest.raises(ValueError, match="from 0 to 2 in the input 'input', got 0 to 3"):
        backbone.feed(wrong)


def test_a_row_before_the_first_of_a_table_without_a_range_is_no_answer(tmp_path):
    calibrated, ids = tower_bundle(tmp_path / "bundle", sums=True)
    runner = Runner(tmp_path / "bundle")
    np.testing.assert_allclose(runner.predict(ids.numpy())[-1].probs, calibrated(ids)[-1].probs, atol=1e-6)

    class Before(nn.Module):
        """Difference of ids, which may be negative."""

        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(20, 4), nn.Linear(4, 3)

        def forward(self, ids):
            return self.head(self.table(ids[:, 0] - ids[:, 1]).relu())

    ids = torch.stack([torch.randint(5, 9, (60,)), torch.randint(5, (60,))], dim=1)
    network = suffice.ExitNetwork([nn.Sequential(Before())], [suffice.Exit(nn.Identity(), nn.Linear(3, 2))]).eval()
    calibrated = suffice.calibrate(network, None, [(ids, torch.arange(60) % 2)], structure=None, temperature=False)
    suffice.export(calibrated, tmp_path / "difference", example=ids[:2])
    runner = Runner(tmp_path / "difference")
    np.testing.assert_allclose(runner.predict(ids.numpy())[-1].probs, calibrated(ids)[-1].probs, atol=1e-6)
    ids[3, 1] = 10  # an index below 0
    with pytest.raises(ValueError, match="got NaN or infinity at position 3"):
        runner.predict(ids.numpy())


class Later(nn.Module):
    """Stage that looks up a column of ids that the stage before passed on."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(6, 4)

    def forward(self, state):
        return {"h": state["h"] + self.table(state["ids"][:, 1]), "ids": state["ids"]}


def test_ids_that_are_looked_up_in_a_later_stage_are_no_answer(tmp_path):
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(6, 4)

        def forward(self, ids):
            return {"h": self.table(ids[:, 0]), "ids": ids}

    class Read(nn.Module):
        def forward(self, state):
            return state["h"]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        exits = [suffice.Exit(Read(), nn.Linear(4, 2)) for _ in range(2)]
        network = suffice.ExitNetwork([First(), Later()], exits).eval()
    ids = torch.randint(6, (60, 2))
    calibrated = suffice.calibrate(network, None, [(ids, torch.arange(60) % 2)], structure=None, temperature=False)
    suffice.export(calibrated, tmp_path / "bundle", example=ids[:2])
    runner = Runner(tmp_path / "bundle")
    np.testing.assert_allclose(runner.predict(ids.numpy())[-1].probs, calibrated(ids)[-1].probs, atol=1e-6)
    ids[5, 1] = -1
    with pytest.raises(ValueError, match="at position 5"):
        runner.predict(ids.numpy())
