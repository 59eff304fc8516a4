"""Tables, curves and intervals of the quality of a calibrated network over budgets."""

from suffice.evaluation import cached, ranking
from suffice.evaluation.ablation import ABLATION, summary
from suffice.evaluation.bootstrap import INTERVALS, bootstrap, interval, resampled
from suffice.evaluation.coverage import set_coverage
from suffice.evaluation.ladder import LADDER, Budgeted, averaged, ladder, over_budgets
from suffice.evaluation.outcomes import (
    MEASURES,
    MULTILABEL_MEASURES,
    REGRESSION_MEASURES,
    Outcome,
    measure,
    monotonicity,
    per_exit,
    predict,
)

__all__ = [
    "ABLATION",
    "INTERVALS",
    "LADDER",
    "MEASURES",
    "MULTILABEL_MEASURES",
    "REGRESSION_MEASURES",
    "Budgeted",
    "Outcome",
    "averaged",
    "bootstrap",
    "cached",
    "interval",
    "ladder",
    "measure",
    "monotonicity",
    "over_budgets",
    "per_exit",
    "predict",
    "ranking",
    "resampled",
    "set_coverage",
    "summary",
]
