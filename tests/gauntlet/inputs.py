"""Inputs of the families: examples without padding, and batches of them with any padding.

An example is a mapping of tensors without a batch dimension. A batch stacks examples; the keys that have a length are
padded to the longest one, and by as much more as asked for, on the right or on the left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

Example = dict[str, Tensor]

PAD, FIRST, LAST, VOCABULARY = 1, 0, 2, 64
"""Tokens of all text models: padding, the first and the last of a text, and how many there are."""

LENGTHS = (5, 8, 11)
"""Lengths of the examples, in turn."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of one family.

    Attributes:
        draw: Function from a generator and a length to one example.
        padding: Value that pads each key that has a length, its first dimension; empty for inputs of one size.
        bare: Whether the model takes the tensor of the only key itself, rather than keyword arguments.
        lengths: Lengths of examples, in turn.
    """

    draw: Callable[[torch.Generator, int], Example]
    padding: Mapping[str, float] = field(default_factory=dict)
    bare: bool = False
    lengths: Sequence[int] = LENGTHS

    def examples(self, count: int, seed: int) -> list[Example]:
        """Draw examples whose lengths take turns."""
        generator = torch.Generator().manual_seed(seed)
        return [self.draw(generator, self.lengths[i % len(self.lengths)]) for i in range(count)]

    def batch(self, examples: Sequence[Example], right: int = 0, left: int = 0) -> Tensor | Example:
        """Return a batch of examples, padded to the longest and by `right` and `left` more."""
        columns: Example = {}
        for key in examples[0]:
            values = [example[key] for example in examples]
            if key in self.padding:
                longest = max(map(len, values))
                values = [_padded(value, longest - len(value) + right, left, self.padding[key]) for value in values]
            columns[key] = torch.stack(values)
        if self.bare:
            (columns,) = columns.values()
        return columns


def _padded(value: Tensor, right: int, left: int, constant: float) -> Tensor:
    return pad(value, (0, 0) * (value.ndim - 1) + (left, right), value=constant)


def _text(generator: torch.Generator, length: int) -> Example:
    tokens = torch.randint(LAST + 1, VOCABULARY, (length,), generator=generator)
    tokens[0], tokens[-1] = FIRST, LAST
    return {"input_ids": tokens, "attention_mask": torch.ones(length, dtype=torch.long)}


text = Inputs(_text, {"input_ids": PAD, "attention_mask": 0})
"""Texts as a tokenizer returns them: tokens and an attention mask."""


def images(size: int = 32, channels: int = 3, key: str = "pixel_values", bare: bool = False) -> Inputs:
    """Return images (channels, size, size), smooth ones with noise, as an image processor returns them or bare."""

    def draw(generator: torch.Generator, length: int) -> Example:
        del length
        smooth = interpolate(torch.randn(1, channels, 4, 4, generator=generator), size=size, mode="bilinear")[0]
        return {key: smooth + 0.3 * torch.randn(channels, size, size, generator=generator)}

    return Inputs(draw, bare=bare)


def tensors(*shape: int, key: str = "x", bare: bool = False) -> Inputs:
    """Return normally distributed tensors of one shape, with an offset for each entry of the first dimension."""

    def draw(generator: torch.Generator, length: int) -> Example:
        del length
        offsets = torch.randn(shape[0], *[1] * (len(shape) - 1), generator=generator)
        return {key: offsets + torch.randn(*shape, generator=generator)}

    return Inputs(draw, bare=bare)


def _audio(generator: torch.Generator, length: int) -> Example:
    return {"input_values": torch.randn(length, generator=generator), "attention_mask": torch.ones(length).long()}


audio = Inputs(_audio, {"input_values": 0.0, "attention_mask": 0}, lengths=(400, 560, 720))
"""Sound samples, as a feature extractor returns them, with an attention mask."""
