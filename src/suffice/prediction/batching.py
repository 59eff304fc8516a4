"""Concatenation of predictions of different batches, and copies to be kept."""

from dataclasses import fields, replace
from typing import Any, TypeVar

import torch

from suffice.prediction.classification import Prediction
from suffice.prediction.multilabel import Multilabel
from suffice.prediction.regression import Regression

P = TypeVar("P", Prediction, Multilabel, Regression)


def without_members(prediction: P) -> P:
    """Return a copy on the CPU without the members, to be kept for measures."""
    names = [field.name for field in fields(prediction) if field.name != "members"]
    columns = {name: column.cpu() for name in names if (column := getattr(prediction, name)) is not None}
    return replace(prediction, **columns, members=())


def concatenate(predictions: list[P]) -> P:
    """Concatenate predictions of different examples by the same exit along the batch dimension."""
    kind = type(predictions[0])
    names = [field.name for field in fields(kind) if field.name != "members"]
    columns = {name: [getattr(prediction, name) for prediction in predictions] for name in names}
    joined: dict[str, Any] = {
        name: None if any(part is None for part in column) else torch.cat(column) for name, column in columns.items()
    }
    members = zip(*(prediction.members for prediction in predictions), strict=True)
    return kind(**joined, members=tuple(concatenate(list(member)) for member in members))
