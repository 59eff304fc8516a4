"""Networks whose inputs differ in length or size from batch to batch, and such batches."""

import torch
from torch import Tensor, nn

from suffice.network import Exit, ExitNetwork, State

CLASSES = 3


class Mean(nn.Module):
    """Mean over the positions of (N, T, D)."""

    def forward(self, h: Tensor) -> Tensor:
        return h.mean(dim=1)


class Recurrent(nn.Module):
    """Outputs of a recurrent layer, without its last state."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.GRU(inputs, outputs, batch_first=True)

    def forward(self, h: Tensor) -> Tensor:
        return self.layer(h)[0]


class Pair(nn.Module):
    """Encoder of a question (N, T) and a context (N, S), which attends from one to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 8)

    def forward(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        question, context = self.tokens(state["question"]), self.tokens(state["context"])
        return {"question": question, "mixed": nn.functional.scaled_dot_product_attention(question, context, context)}


class Mixed(nn.Module):
    """Later stage of a pair; the context is no longer needed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**state, "mixed": self.layer(state["mixed"]).tanh()}


class MeanOfMixed(nn.Module):
    """Mean over the question's positions."""

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        return state["mixed"].mean(dim=1)


class Patches(nn.Module):
    """Tokens (N, H·W, D) of images, with the height and the width as plain values in the state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 8, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, int, int]:
        maps = self.layer(images)
        return maps.flatten(2).transpose(1, 2), *maps.shape[2:]


class Windows(nn.Module):
    """Convolution over tokens in the shape that the plain values give."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, (1, 3), padding=(0, 1))

    def forward(self, state: tuple[Tensor, int, int]) -> tuple[Tensor, int, int]:
        tokens, height, width = state
        maps = self.layer(tokens.transpose(1, 2).unflatten(2, (height, width))).tanh()
        return maps.flatten(2).transpose(1, 2), height, width


class MaxOfTokens(nn.Module):
    """Maximum over the tokens."""

    def forward(self, state: tuple[Tensor, int, int]) -> Tensor:
        return state[0].amax(dim=1)


def _stages(kind: str) -> tuple[list[nn.Module], list[nn.Module]]:
    if kind == "text":
        block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        return [nn.Embedding(20, 8), block, nn.Linear(8, 8)], [Mean(), Mean(), Mean()]
    if kind == "images":  # the last stage gets maps of one size, whatever the size of the image
        first, second = nn.Conv2d(1, 8, 3, padding=1), nn.Sequential(nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(2))
        pooled = [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) for _ in range(3)]
        return [first, second, nn.Conv2d(8, 8, 1)], pooled
    if kind == "recurrent":
        return [Recurrent(8, 8), Recurrent(8, 8)], [Mean(), Mean()]
    if kind == "pair":
        return [Pair(), Mixed(), Mixed()], [MeanOfMixed() for _ in range(3)]
    assert kind == "patches"
    return [Patches(), Windows(), Windows()], [MaxOfTokens() for _ in range(3)]


KINDS = ("text", "images", "recurrent", "pair", "patches")


def network(kind: str, seed: int = 0) -> ExitNetwork:
    """Return a network of a kind with random weights and confident exits, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stages, features = _stages(kind)
        exits = [Exit(feature, nn.Linear(8, CLASSES)) for feature in features]
        for exit_ in exits:
            nn.init.normal_(exit_.classifier.weight, std=4.0)
    return ExitNetwork(stages, exits).eval()


def batch(kind: str, count: int, lengths: tuple[int, int], seed: int = 0) -> State:
    """Return `count` inputs of a kind, all of the same shape; one number, or two, give the shape."""
    generator, (first, second) = torch.Generator().manual_seed(seed), lengths
    if kind == "text":
        return torch.randint(20, (count, first), generator=generator)
    if kind in ("images", "patches"):
        return torch.randn(count, 1, first + 2, second + 2, generator=generator)
    if kind == "recurrent":
        return torch.randn(count, first, 8, generator=generator)
    question, context = (torch.randint(20, (count, length), generator=generator) for length in lengths)
    return {"question": question, "context": context}


def batches(kind: str, count: int = 6, size: int = 20, seed: int = 0) -> list[State]:
    """Return several batches of different lengths; two of them have images of one area and different sides."""
    shapes = [(2, 7), (7, 2), (1, 4), (5, 5), (4, 1), (3, 6)]
    return [batch(kind, size, shapes[i % len(shapes)], seed + i) for i in range(count)]
