"""Early exits for any trained model: cutting the model, pooling its states, and checking the stages."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
