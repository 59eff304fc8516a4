"""Export of calibrated networks and estimators to bundles: ONNX graphs and a manifest, which need no PyTorch."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
