"""Small requests and classifiers for the tests of the text experiment."""

import torch

from suffice.data.splits.texts import Tokens
from suffice.reproduce.early_exit.text import classifiers
from suffice.reproduce.early_exit.text.subjects import Requests

INTENTS, PER_INTENT = 3, 8
"""Number of intents, and token ids that belong to each of them, from id 1 on."""


def tokens(count, seed, training=False):
    """Make texts of 2 to 6 tokens, half of them of the intent and the others of any."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % INTENTS
    ids = []
    for label in labels.tolist():
        length = int(torch.randint(2, 7, (), generator=generator))
        own = 1 + label * PER_INTENT + torch.randint(PER_INTENT, (length,), generator=generator)
        other = torch.randint(1, 1 + INTENTS * PER_INTENT, (length,), generator=generator)
        ids.append(torch.where(torch.rand(length, generator=generator) < 0.5, own, other))
    return Tokens(tuple(ids), labels, training=training)


def requests(train=96):
    parts = (tokens(train, 0, training=True), tokens(40, 1), tokens(60, 2), tokens(45, 3), tokens(20, 4))
    return Requests(*(part.by_length() for part in parts))


def bert(num_classes, layers=3):
    """Make a small BERT with random weights, as MiniLM is built from its own."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32
    )
    return classifiers.from_bert(BertModel(config, add_pooling_layer=False), num_classes)


def lstm(num_classes):
    return classifiers.lstm(num_classes, (4, 8, 8))
