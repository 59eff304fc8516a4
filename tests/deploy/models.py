"""Models whose exits are attached, and networks of layers that are hard to export."""

from functools import cache

import torch
from torch import Tensor, nn

import suffice
from suffice.calibration.calibrated import Calibrated
from suffice.network import ExitNetwork
from tests import builders

VOCABULARY, WIDTH, TOKENS, CLASSES = 20, 8, 9, 3


class Layer(nn.Module):
    """Layer of a text model, the encoder layer of torch or attention written out."""

    def __init__(self, ready_made: bool) -> None:
        super().__init__()
        self.ready_made = ready_made
        self.encoder = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.1, batch_first=True)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        if self.ready_made:
            return self.encoder(hidden, src_key_padding_mask=attention_mask == 0)
        query, key, value = self.project(hidden).chunk(3, dim=-1)
        kept = attention_mask[:, None, :].bool()
        return hidden + nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=kept)


class TextClassifier(nn.Module):
    """Small transformer with a mask of padding."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.layers = nn.ModuleList([Layer(True), Layer(False)])
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.embeddings(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        kept = attention_mask[:, :, None].to(hidden.dtype)
        return self.head((hidden * kept).sum(dim=1) / kept.sum(dim=1))


def texts(count: int, tokens: int = TOKENS, seed: int = 0) -> dict[str, Tensor]:
    """Return padded token ids and their mask; the first text has no padding."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, tokens + 1, (count,), generator=generator)
    lengths[0] = tokens
    mask = (torch.arange(tokens) < lengths[:, None]).long()
    ids = torch.randint(1, VOCABULARY, (count, tokens), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask}


def drawn(network: ExitNetwork) -> ExitNetwork:
    """Draw the weights of all exits, in place of training them."""
    for exit_ in network.exits:
        nn.init.normal_(exit_.classifier.weight)
    return network


def text_network(classes: int) -> ExitNetwork:
    """Return a text model with an exit attached after its first layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return drawn(suffice.attach_exits(TextClassifier(classes).eval(), at=["layers.0"], example=texts(4)))


def sequential_network(classes: int) -> ExitNetwork:
    """Return a plain model with an exit attached after its second layer, and dropout before it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, classes)]
        return drawn(suffice.attach_exits(nn.Sequential(*layers).eval(), at=["2"], example=torch.randn(4, 3)))


@cache
def calibrated_text() -> Calibrated:
    """Return the text model, calibrated on texts of 9 and of 6 tokens."""
    network = text_network(CLASSES)
    batches = [texts(20, tokens, seed) for seed, tokens in enumerate((TOKENS, 6, TOKENS, 6))]
    loader = [(x, builders.sampled_labels(network(x)[-1])) for x in batches]
    return suffice.calibrate(
        network,
        loader[:2],
        loader[2:],
        structure="full",
        link="sampled",
        samples=8,
        generator=torch.Generator().manual_seed(0),
    )


@cache
def text_policy() -> suffice.Policy:
    """Return a policy of the text model."""
    return suffice.allocate(calibrated_text(), [texts(40, seed=5), texts(40, 6, seed=6)], 0.8)
