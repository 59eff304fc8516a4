"""Watch a promise on live traffic, by evidence that is valid however often it is looked at.

Every class is a state: `update` returns the next one, and `state.to_dict` and `state.from_dict` save and restore it.
The first axis of the observations is time; further axes are streams that are watched side by side.

- `MeanBounds`: bounds on the mean loss so far that hold at all times at once.
- `LossAlarm`: alarm that the loss is above its bound; false with at most a given probability, over all time.
- `LossDetector`: a faster alarm for the same, with a given average number of observations up to a false one.
- `StepBack`: sequence of ever safer policies, left one by one at alarms.
- `ShareAlarm`: alarm that exits have other shares than the stated ones, up to a tolerance.
- `DriftAlarm`: alarm that exits, costs or uncertainties are no longer those of the calibration data.
"""

from suffice_runtime.monitor.loss import LossAlarm, LossDetector
from suffice_runtime.monitor.mean import MeanBounds
from suffice_runtime.monitor.ranks import DriftAlarm, watch_exits, watch_values
from suffice_runtime.monitor.shares import ShareAlarm
from suffice_runtime.monitor.state import from_dict, to_dict
from suffice_runtime.monitor.steps import StepBack

__all__ = [
    "DriftAlarm",
    "LossAlarm",
    "LossDetector",
    "MeanBounds",
    "ShareAlarm",
    "StepBack",
    "from_dict",
    "to_dict",
    "watch_exits",
    "watch_values",
]
