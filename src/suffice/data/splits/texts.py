"""Short texts in memory, and their tokens: padded batches, with texts of similar length together where that is asked.

A batch of tokens is a mapping with `input_ids` (N, T) int64, `attention_mask` (N, T) int64, 1 at tokens and 0 at
padding, and `labels` (N,) int64. Padding is as long as the longest text of the batch requires.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from suffice.data.splits import order

Encode = Callable[[list[str]], Sequence[Sequence[int]]]
"""Function from texts to the ids of their tokens, such as `lambda texts: tokenizer(texts)["input_ids"]`."""

_POOL = 16
"""Batches whose texts are drawn together and then sorted by length, in `shuffled`."""


@dataclass(frozen=True)
class Texts:
    """Split of texts with their labels.

    Attributes:
        texts: The N texts.
        labels: Class of each text, (N,) int64.
        training: Whether the split is for training, so that `batches` of its tokens are in random order by default.
    """

    texts: tuple[str, ...] = field(repr=False)
    labels: Tensor = field(repr=False)
    training: bool = False

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return f"Texts({len(self):,})"

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)

    def subset(self, rows: Tensor) -> "Texts":
        """Return the split of these rows only, (n,) int64."""
        return replace(self, texts=tuple(self.texts[row] for row in rows.tolist()), labels=self.labels[rows])

    def encoded(self, encode: Encode, padding: int = 0) -> "Tokens":
        """Return the split as tokens.

        Args:
            encode: Function from texts to the ids of their tokens.
            padding: Id of padding.

        Raises:
            ValueError: Unless there is a token or more for each text.
        """
        ids = tuple(torch.as_tensor(row, dtype=torch.int64) for row in encode(list(self.texts)))
        if len(ids) != len(self) or any(row.ndim != 1 or not len(row) for row in ids):
            raise ValueError(
                f"expected a list of one token id or more for each of {len(self)} texts, got {len(ids)} lists"
                + (", some of them empty" if len(ids) == len(self) else "")
            )
        return Tokens(ids, self.labels, padding, self.training)


@dataclass(frozen=True)
class Tokens:
    """Split of texts as the ids of their tokens.

    Attributes:
        ids: Token ids of the N texts, (T_n,) int64 each.
        labels: Class of each text, (N,) int64.
        padding: Id of padding.
        training: Whether the split is for training.
    """

    ids: tuple[Tensor, ...] = field(repr=False)
    labels: Tensor = field(repr=False)
    padding: int = 0
    training: bool = False

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return f"Tokens({len(self):,} texts of {float(self.lengths.double().mean()):.1f} tokens)"

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.ids)

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each text, (N,) int64."""
        return torch.tensor([len(row) for row in self.ids])

    def subset(self, rows: Tensor) -> "Tokens":
        """Return the split of these rows only, in this order, (n,) int64."""
        return replace(self, ids=tuple(self.ids[row] for row in rows.tolist()), labels=self.labels[rows])

    def by_length(self) -> "Tokens":
        """Return the split with the shortest texts first, so that batches in stored order need little padding."""
        return self.subset(self.lengths.argsort(stable=True))

    def batches(self, size: int = 64, *, shuffle: bool | None = None) -> "TokenBatches":
        """Return batches; they can be iterated repeatedly.

        Args:
            size: Texts in a batch; the last batch may be smaller.
            shuffle: Return one fixed random order instead of the stored one, which is that of `labels`; None: for a
                training split only.
        """
        return TokenBatches(self, size, self.training if shuffle is None else shuffle)

    def shuffled(self, size: int, *, generator: torch.Generator) -> "ShuffledTokens":
        """Return batches for training, in a new order in each epoch, with texts of similar length together.

        Args:
            size: Texts in a batch; the last batch may be smaller.
            generator: CPU generator of the order.
        """
        return ShuffledTokens(self, size, True, generator)

    def pad(self, rows: Tensor) -> dict[str, Tensor]:
        """Return these rows of the split, (n,) int64, as one batch."""
        chosen = [self.ids[row] for row in rows.tolist()]
        input_ids = pad_sequence(chosen, batch_first=True, padding_value=self.padding)
        lengths = torch.tensor([len(row) for row in chosen])
        mask = torch.arange(input_ids.shape[1]) < lengths[:, None]
        return {"input_ids": input_ids, "attention_mask": mask.long(), "labels": self.labels[rows]}


@dataclass(frozen=True)
class TokenBatches:
    """Batches of a split, in the same order in each pass.

    Attributes:
        split: The tokens.
        size: Texts in a batch.
        shuffle: Whether the order is random (`suffice.data.splits.order`), not that of the split.
    """

    split: Tokens
    size: int
    shuffle: bool

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.split) // self.size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Iterate over the split once."""
        for rows in order.positions(len(self.split), self.shuffle).split(self.size):
            yield self.split.pad(rows)


@dataclass(frozen=True)
class ShuffledTokens(TokenBatches):
    """Batches of a split, in a new random order in each pass.

    Attributes:
        generator: CPU generator of the order.
    """

    generator: torch.Generator

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Iterate over one epoch: random pools of batches, each sorted by length, then the batches in random order."""
        lengths = self.split.lengths
        shuffled = torch.randperm(len(self.split), generator=self.generator)
        pools = shuffled.split(self.size * _POOL)
        batches = [rows for pool in pools for rows in pool[lengths[pool].argsort(stable=True)].split(self.size)]
        for batch in torch.randperm(len(batches), generator=self.generator).tolist():
            yield self.split.pad(batches[batch])
