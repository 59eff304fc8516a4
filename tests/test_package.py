"""What holds of every module of the package."""

import dataclasses
import inspect

import pytest
from torch import nn

from tests import signatures

CHANGING = {"Faults", "Writer", "_Pixels", "_Batch", "_Plan", "_Stream"}
"""Data classes whose fields are meant to change: what is under construction, or runs."""


@pytest.fixture(scope="module")
def classes():
    return {
        found
        for module in signatures.modules()
        for _, found in inspect.getmembers(module, inspect.isclass)
        if found.__module__.startswith("suffice")
    }


def test_data_classes_cannot_be_changed_but_for_a_few(classes):
    changing = {
        found.__name__
        for found in classes
        if dataclasses.is_dataclass(found)
        and not found.__dataclass_params__.frozen
        and not issubclass(found, nn.Module)
    }
    assert changing <= CHANGING


def test_classes_with_annotated_fields_and_no_constructor_are_data_classes(classes):
    """A decorator that was lost would leave a class that takes no arguments."""
    forgotten = [
        found
        for found in classes
        if inspect.get_annotations(found)
        and "__init__" not in vars(found)
        and not dataclasses.is_dataclass(found)
        and not getattr(found, "_is_protocol", False)
        and not found.__subclasses__()  # which declare the fields again
        and any(name not in vars(found) for name in inspect.get_annotations(found))
        and not issubclass(found, (nn.Module, Exception))
    ]
    assert forgotten == []


def test_names_arguments_and_defaults_are_those_written_down():
    """Whoever changes one runs `python -m tests.signatures` and names the change in the changelog."""
    assert list(signatures.signatures()) == signatures.FILE.read_text().splitlines()
