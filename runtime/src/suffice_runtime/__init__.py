"""Run networks with early exits, and variation estimators, that suffice exported: NumPy and ONNX Runtime, no torch."""

from suffice_runtime._version import __version__
from suffice_runtime.answer import Answer
from suffice_runtime.drift import Tracker, track
from suffice_runtime.estimate import Estimate
from suffice_runtime.policy import Policy
from suffice_runtime.prediction import Multilabel, Prediction, Regression
from suffice_runtime.runner import Runner
from suffice_runtime.running.stream import Served, StageError
from suffice_runtime.sets import Intervals, LabelSets

__all__ = [
    "Answer",
    "Estimate",
    "Intervals",
    "LabelSets",
    "Multilabel",
    "Policy",
    "Prediction",
    "Regression",
    "Runner",
    "Served",
    "StageError",
    "Tracker",
    "__version__",
    "track",
]
