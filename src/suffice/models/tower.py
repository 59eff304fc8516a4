"""The embedding tower of recommenders and click models: ids and numbers in, a rating, a click or a class out.

    x = [e_1(id_1), …, e_F(id_F), numbers],   h ← dropout(relu(W h + b)) for each hidden layer

With exits after some of the hidden layers where they are asked for. The towers of Chen et al. 2021
(arXiv 2008.07032) and Yu et al. 2021 (arXiv 2110.06435) are of this kind.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from suffice.models.layout import ends
from suffice.network import Exit, ExitNetwork


class Embeddings(nn.Module):
    """Ids and numbers side by side: ids (N, F), or a mapping of `categorical` and `numeric` (N, M) → (N, F · D + M).

    All fields share one table, in which field f begins after the fields before it: one look-up instead of F.
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
        """The input of the hidden layers.

        Raises:
            ValueError: if an id is out of its field's range, or there are more or fewer fields or numbers.
        """
        ids, numeric = (inputs, None) if isinstance(inputs, Tensor) else (inputs["categorical"], inputs.get("numeric"))
        self._check(ids, numeric)
        embedded = self.dropout(self.table(ids + self.starts)).flatten(1)
        return embedded if numeric is None else torch.cat([embedded, numeric.to(embedded)], dim=1)

    def _check(self, ids: Tensor, numeric: Tensor | None) -> None:
        fields, given = len(self.sizes), 0 if numeric is None else numeric.shape[1]
        if ids.ndim != 2 or ids.shape[1] != fields or given != self.numeric:
            raise ValueError(
                f"expected ids (N, {fields}) and {self.numeric} numeric columns, got ids {tuple(ids.shape)} and {given}"
            )
        # A compiled graph cannot stop for a value; there an id beyond the table is the look-up's own error.
        if torch.compiler.is_compiling():
            return
        outside = ((ids < 0) | (ids >= self.sizes)).nonzero()
        if len(outside):
            row, field = outside[0].tolist()
            raise ValueError(
                f"expected ids in [0, {int(self.sizes[field])}) in field {field}, got {int(ids[row, field])} "
                f"in row {row} of the batch; give unseen values an id of their own"
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
    """A tower of embeddings and hidden layers, for ids (N, F), int64, or a mapping of `categorical` and `numeric`.

    Args:
        cardinalities: of each of the F fields; the ids of a field are in [0, cardinality).
        num_classes: C; 1 for a rating or the logit of a click.
        numeric: M, how many numbers (N, M) there are beside the ids; bring them to about unit scale.
        embedding: D, the width of each field's embedding.
        hidden: widths of the hidden layers, first to last.
        exits_after: numbers of hidden layers, rising, after which there are earlier exits; the last exit is after
            all.
        dropout: rate after each hidden layer.
        embedding_dropout: rate on the embeddings, not on the numbers.

    Raises:
        ValueError: if there is no field or no hidden layer, or `exits_after` does not rise below their number.
    """
    if not cardinalities or not hidden:
        raise ValueError(f"expected at least one field and one hidden layer, got {cardinalities} and {hidden}")
    widths = [len(cardinalities) * embedding + numeric, *hidden]
    stages: list[nn.Module] = []
    exits = []
    for start, stop in pairwise(ends(exits_after, len(hidden), "hidden layers")):
        modules: list[nn.Module] = [] if start else [Embeddings(cardinalities, numeric, embedding, embedding_dropout)]
        for width_in, width_out in pairwise(widths[start : stop + 1]):
            modules += [nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(dropout)]
        stages.append(nn.Sequential(*modules))
        exits.append(Exit(nn.Identity(), nn.Linear(widths[stop], num_classes)))
    return ExitNetwork(stages, exits)
