"""Rules that hold for every module of the package."""

import dataclasses
import inspect

import pytest
import torch
from torch import nn

from tests import signatures

MUTABLE = {
    "BadRecords", "Batch", "DatasetWriter", "Observation", "Pass", "Plan", "_Batch", "_Observed", "_Pixels", "_Stream",
}  # fmt: skip
"""Data classes with mutable fields: objects under construction, or in progress."""


@pytest.fixture(scope="module")
def classes():
    return {
        cls
        for module in signatures.modules()
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__.startswith("suffice")
    }


def test_data_classes_are_frozen_with_few_exceptions(classes):
    mutable = {
        cls.__name__
        for cls in classes
        if dataclasses.is_dataclass(cls) and not cls.__dataclass_params__.frozen and not issubclass(cls, nn.Module)
    }
    assert mutable <= MUTABLE


def test_classes_with_annotated_fields_and_no_constructor_are_data_classes(classes):
    """Without the decorator such a class takes no arguments."""
    undecorated = [
        cls
        for cls in classes
        if inspect.get_annotations(cls)
        and "__init__" not in vars(cls)
        and not dataclasses.is_dataclass(cls)
        and not getattr(cls, "_is_protocol", False)
        and not cls.__subclasses__()  # subclasses declare the fields again
        and any(name not in vars(cls) for name in inspect.get_annotations(cls))
        and not issubclass(cls, (nn.Module, torch.Tensor, Exception))
    ]
    assert undecorated == []


def test_names_arguments_and_defaults_match_the_recorded_ones():
    """After an intended change, run `python -m tests.signatures` and name the change in the changelog."""
    assert list(signatures.signatures()) == signatures.FILE.read_text().splitlines()
