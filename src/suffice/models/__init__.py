"""Reference networks with early exits."""

from suffice.models.convnet import convnet
from suffice.models.msdnet import msdnet
from suffice.models.resnet import resnet
from suffice.models.tower import tower
from suffice.models.vit import vit
from suffice.models.zoo import pretrained

__all__ = ["convnet", "msdnet", "pretrained", "resnet", "tower", "vit"]
