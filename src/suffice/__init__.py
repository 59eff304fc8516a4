"""Know how sure a network is, for the price of one forward pass, and stop computing when that is enough."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from suffice._version import __version__ as __version__

if TYPE_CHECKING:
    from suffice import attach as attach
    from suffice import budget as budget
    from suffice import calibration as calibration
    from suffice import cost as cost
    from suffice import data as data
    from suffice import deploy as deploy
    from suffice import evaluation as evaluation
    from suffice import metrics as metrics
    from suffice import models as models
    from suffice import report as report
    from suffice import testing as testing
    from suffice import training as training
    from suffice import variation as variation
    from suffice.attach.attach import attach_exits as attach_exits
    from suffice.budget.allocate import allocate as allocate
    from suffice.budget.conformalize import conformalize as conformalize
    from suffice.budget.exit_variation import fit_exit_variation as fit_exit_variation
    from suffice.budget.guarantee import certified_policies as certified_policies
    from suffice.budget.guarantee import control_risk as control_risk
    from suffice.budget.policy import Policy as Policy
    from suffice.budget.running.run import Answer as Answer
    from suffice.budget.running.run import run as run
    from suffice.budget.running.stream import run_stream as run_stream
    from suffice.calibration.calibrate import calibrate as calibrate
    from suffice.calibration.calibrated import Calibrated as Calibrated
    from suffice.deploy.export import export as export
    from suffice.deploy.quantize import quantize as quantize
    from suffice.network import Exit as Exit
    from suffice.network import ExitNetwork as ExitNetwork
    from suffice.prediction import Multilabel as Multilabel
    from suffice.prediction import Prediction as Prediction
    from suffice.prediction import Regression as Regression
    from suffice.storage.artifact import load as load
    from suffice.storage.artifact import save as save
    from suffice.variation.buckets import fit_buckets as fit_buckets
    from suffice.variation.estimator import VariationEstimator as VariationEstimator
    from suffice.variation.fitting import fit_variation as fit_variation
    from suffice.variation.joint import JointHead as JointHead
    from suffice.variation.teachers.dropout import MCDropout as MCDropout
    from suffice.variation.teachers.ensemble import EnsembleTeacher as EnsembleTeacher
    from suffice.variation.teachers.laplace import LaplaceTeacher as LaplaceTeacher
    from suffice.variation.teachers.spreads import Variation as Variation

_MODULE_OF = {
    "Answer": "suffice.budget.running.run",
    "Calibrated": "suffice.calibration.calibrated",
    "EnsembleTeacher": "suffice.variation.teachers.ensemble",
    "Exit": "suffice.network",
    "ExitNetwork": "suffice.network",
    "JointHead": "suffice.variation.joint",
    "LaplaceTeacher": "suffice.variation.teachers.laplace",
    "MCDropout": "suffice.variation.teachers.dropout",
    "Multilabel": "suffice.prediction",
    "Policy": "suffice.budget.policy",
    "Prediction": "suffice.prediction",
    "Regression": "suffice.prediction",
    "Variation": "suffice.variation.teachers.spreads",
    "VariationEstimator": "suffice.variation.estimator",
    "allocate": "suffice.budget.allocate",
    "attach_exits": "suffice.attach.attach",
    "calibrate": "suffice.calibration.calibrate",
    "certified_policies": "suffice.budget.guarantee",
    "conformalize": "suffice.budget.conformalize",
    "control_risk": "suffice.budget.guarantee",
    "export": "suffice.deploy.export",
    "fit_buckets": "suffice.variation.buckets",
    "fit_exit_variation": "suffice.budget.exit_variation",
    "fit_variation": "suffice.variation.fitting",
    "load": "suffice.storage.artifact",
    "quantize": "suffice.deploy.quantize",
    "run": "suffice.budget.running.run",
    "run_stream": "suffice.budget.running.stream",
    "save": "suffice.storage.artifact",
}
_MODULES = {
    "attach",
    "budget",
    "calibration",
    "cost",
    "data",
    "deploy",
    "evaluation",
    "metrics",
    "models",
    "report",
    "testing",
    "training",
    "variation",
}

__all__ = sorted([*_MODULE_OF, *_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import suffice` imports nothing heavy."""
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    if name in _MODULES:
        return import_module(f"suffice.{name}")
    hint = "; train exits with suffice.training.train" if name in ("train", "fit") else ""
    raise AttributeError(f"module 'suffice' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
