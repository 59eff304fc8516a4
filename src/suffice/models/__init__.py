"""Reference networks with exits."""

from typing import TYPE_CHECKING

from suffice.models.convnet import convnet
from suffice.models.msdnet import msdnet
from suffice.models.resnet import resnet
from suffice.models.tower import tower
from suffice.models.vit import vit

if TYPE_CHECKING:
    from suffice.pretrained import Pretrained

__all__ = ["convnet", "msdnet", "pretrained", "resnet", "tower", "vit"]


def pretrained(name: str) -> "Pretrained":
    """A network that comes with the library, with its calibration and a policy: see `suffice.pretrained`.

    Raises:
        ValueError: for a name that there is not.
    """
    from suffice import pretrained  # it holds calibrated networks, which are made of all of this

    return pretrained.pretrained(name)
