"""Export of calibrated networks to bundles: an ONNX graph for each stage and a manifest, which need no PyTorch."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
