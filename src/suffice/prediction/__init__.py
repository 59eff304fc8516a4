"""Predictions with their uncertainty: probabilities of classes or of several labels, or Gaussians over numbers."""

from suffice.prediction.batching import concatenate, without_members
from suffice.prediction.classification import Prediction, entropy
from suffice.prediction.interface import AnyPrediction, Kind, Loss, Streak
from suffice.prediction.multilabel import Multilabel
from suffice.prediction.regression import Regression

__all__ = [
    "AnyPrediction",
    "Kind",
    "Loss",
    "Multilabel",
    "Prediction",
    "Regression",
    "Streak",
    "concatenate",
    "entropy",
    "without_members",
]
