"""The validation set as the exits see it: kept once, so that the network is not run again."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Cache:
    """The validation set as one exit sees it: logits (N, C), and the spectrum of φ where a link needs it."""

    logits: Tensor
    spectrum: Tensor | None
