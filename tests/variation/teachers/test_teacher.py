import torch
from torch import nn

from suffice.variation.teachers.dropout import MCDropout, configuration_of
from suffice.variation.teachers.ensemble import EnsembleTeacher
from suffice.variation.teachers.spreads import Variation
from suffice.variation.teachers.teacher import DropoutTeacher, RepeatableTeacher, with_passes

ENSEMBLE = EnsembleTeacher([nn.Linear(3, 4), nn.Linear(3, 4)])


def constant(model, x, *, generator=None):
    del model, generator
    return Variation(torch.ones(len(x), 4) / 4, {"std": torch.ones(len(x))}, 3)


class Repeatable:
    """Teacher of a user whose number of passes can be chosen."""

    def __init__(self, passes):
        self.passes = passes

    def with_passes(self, passes):
        return Repeatable(passes)

    def __call__(self, model, x, *, generator=None):
        return Variation(torch.ones(len(x), 4) / 4, {"std": torch.ones(len(x))}, self.passes)


def test_passes_are_chosen_where_a_teacher_has_them_to_choose():
    assert with_passes(MCDropout(0.2, passes=4), 7) == MCDropout(0.2, passes=7)
    assert with_passes(Repeatable(4), 7).passes == 7
    assert with_passes(ENSEMBLE, 7) is ENSEMBLE
    assert with_passes(constant, 7) is constant


def test_the_protocols_hold_for_dropout_only():
    for protocol in (RepeatableTeacher, DropoutTeacher):
        assert isinstance(MCDropout(), protocol)
        assert not isinstance(ENSEMBLE, protocol)
        assert not isinstance(constant, protocol)
    assert isinstance(Repeatable(4), RepeatableTeacher)
    assert not isinstance(Repeatable(4), DropoutTeacher)


def test_an_artifact_stores_dropout_only():
    fields = {"rate": 0.2, "at": ("0",), "passes": 4, "likelihood": "binary", "memory": 99}
    assert configuration_of(MCDropout(0.2, ["0"], 4, "binary", 99)) == fields
    for teacher in (ENSEMBLE, constant, Repeatable(4), None):
        assert configuration_of(teacher) is None
