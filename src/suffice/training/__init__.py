"""Training of networks with exits: the loop, its settings, losses and checkpoints."""

from suffice.training import losses
from suffice.training.config import AdamWConfig, Checkpointing, Execution, SGDConfig, cosine, steps
from suffice.training.loop import train
from suffice.training.progress import TrainingProgress

__all__ = [
    "AdamWConfig",
    "Checkpointing",
    "Execution",
    "SGDConfig",
    "TrainingProgress",
    "cosine",
    "losses",
    "steps",
    "train",
]
