"""Training of networks with exits: the loop, losses and checkpoints."""

from suffice.training import losses
from suffice.training.loop import cosine, steps, train

__all__ = ["cosine", "losses", "steps", "train"]
