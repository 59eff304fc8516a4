"""Embedding tower of recommenders and click models, from ids and numbers to a rating, a click or a class.

    x = [e_1(id_1), …, e_F(id_F), numbers],   h ← dropout(relu(W h + b)) for each hidden layer

Exits can follow any of the hidden layers. Chen et al. 2021 (arXiv 2008.07032) and Yu et al. 2021 (arXiv 2110.06435) use
such towers.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from suffice.models.layout import stage_bounds
from suffice.network import Exit, ExitNetwork


class Embeddings(nn.Module):
    """Embedded ids, concatenated with numbers: ids (N, F), or a mapping with `numeric` (N, M) → (N, F · D + M).

    The mapping holds the ids as `categorical`. All fields share one table, in which the rows of a field follow those of
    the field before it, so that one lookup replaces F.
    """

    sizes: Tensor
    starts: Tensor

    def __init__(self, cardinalities: Sequence[int], numeric: int, width: int, dropout: float) -> None:
        super().__init__()
        self.numeric = numeric
        self.table = nn.Embedding(sum(cardinalities), width)
        nn.init.normal_(self.table.weight, std=0.05)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("sizes", torch.tensor(cardinalities), persistent=False)
        self.register_buffer("starts", torch.tensor([0, *accumulate(cardinalities)][:-1]), persistent=False)

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return the input of the hidden layers.

        Raises:
            ValueError: If an id is outside the range of its field, or the number of fields or numbers is wrong.
        """
        ids, numeric = (inputs, None) if isinstance(inputs, Tensor) else (inputs["categorical"], inputs.get("numeric"))
        self._check(ids, numeric)
        embedded = self.dropout(self.table(ids + self.starts)).flatten(1)
        return embedded if numeric is None else torch.cat([embedded, numeric.to(embedded)], dim=1)

    def _check(self, ids: Tensor, numeric: Tensor | None) -> None:
        fields, columns = len(self.sizes), 0 if numeric is None else numeric.shape[1]
        if ids.ndim != 2 or ids.shape[1] != fields or columns != self.numeric:
            raise ValueError(
                f"expected ids (N, {fields}) and {self.numeric} numeric columns, "
                f"got ids {tuple(ids.shape)} and {columns}"
            )
        # A compiled graph cannot branch on values; there the lookup itself raises for an id outside the table.
        if torch.compiler.is_compiling():
            return
        outside = ((ids < 0) | (ids >= self.sizes)).nonzero()
        if len(outside):
            row, field = outside[0].tolist()
            raise ValueError(
                f"expected ids in [0, {int(self.sizes[field])}) in field {field}, got {int(ids[row, field])} "
                f"in row {row} of the batch; map unseen values to a separate id"
            )


def tower(
    cardinalities: Sequence[int],
    num_classes: int = 1,
    numeric: int = 0,
    embedding: int = 16,
    hidden: Sequence[int] = (128, 64),
    exits_after: Sequence[int] = (),
    dropout: float = 0.2,
    embedding_dropout: float = 0.0,
) -> ExitNetwork:
    """Build a tower of embeddings and hidden layers for ids (N, F), int64, or a mapping of `categorical` and `numeric`.

    Args:
        cardinalities: Cardinality of each of the F fields; the ids of a field are in [0, cardinality).
        num_classes: Number of outputs C; 1 for a rating or the logit of a click.
        numeric: Number M of numeric columns (N, M), which should have about unit scale.
        embedding: Dimension D of each field's embedding.
        hidden: Widths of the hidden layers, first to last.
        exits_after: Numbers of hidden layers, in increasing order, after which there are earlier exits; the last exit
            is after all of them.
        dropout: Dropout rate after each hidden layer.
        embedding_dropout: Dropout rate on the embeddings, not on the numbers.

    Raises:
        ValueError: If there is no field or no hidden layer, or `exits_after` does not increase below their number.

    Example:
        >>> import torch
        >>> import suffice
        >>> network = suffice.models.tower([100, 20], num_classes=1, hidden=(32, 16), exits_after=(1,))
        >>> [tuple(logits.shape) for logits in network(torch.zeros(4, 2, dtype=torch.long))]
        [(4, 1), (4, 1)]
    """
    if not cardinalities or not hidden:
        raise ValueError(f"expected at least one field and one hidden layer, got {cardinalities} and {hidden}")
    widths = [len(cardinalities) * embedding + numeric, *hidden]
    stages: list[nn.Module] = []
    exits = []
    for start, stop in pairwise(stage_bounds(exits_after, len(hidden), "hidden layers")):
        modules: list[nn.Module] = [] if start else [Embeddings(cardinalities, numeric, embedding, embedding_dropout)]
        for width_in, width_out in pairwise(widths[start : stop + 1]):
            modules += [nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(dropout)]
        stages.append(nn.Sequential(*modules))
        exits.append(Exit(nn.Identity(), nn.Linear(widths[stop], num_classes)))
    return ExitNetwork(stages, exits)
