"""Hand-written networks, each with one thing that makes cutting hard: skips, recurrence, routing, modules made anew."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from tests.gauntlet.family import CLASSES
from tests.gauntlet.inputs import PAD, VOCABULARY


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """Residual block with ReLU in place."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _conv(inputs, outputs, stride), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.first(x))
        out += self.shortcut(x)
        return self.relu(out)


class ResidualNet(nn.Module):
    """Residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 8)
        self.layer1, self.layer2, self.layer3 = Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 32, 2)
        self.dropout, self.fc = nn.Dropout(0.2), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(self.dropout(x.mean((2, 3))))


class DenseNet(nn.Module):
    """Layers that read the outputs of all layers before them, kept in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 8, 2)
        self.layers = nn.ModuleList(_conv(8 + 8 * i, 8) for i in range(3))
        self.dropout, self.fc = nn.Dropout(0.2), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        x = functional.adaptive_avg_pool2d(torch.cat(features, 1), 1).flatten(1)
        return self.fc(self.dropout(x))


class SqueezeExcitation(nn.Module):
    """Convolution whose channels are scaled by what is pooled from them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = _conv(inputs, outputs, 2)
        self.squeeze, self.excite = nn.Conv2d(outputs, 4, 1), nn.Conv2d(4, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class UShaped(nn.Module):
    """Down and up again, with skips across, and a classifier at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_conv(3, 8), _conv(8, 16, 2), _conv(16, 32, 2)])
        self.up = nn.ModuleList([_conv(32 + 16, 16), _conv(16 + 8, 16)])
        self.dropout, self.head = nn.Dropout(0.2), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        for up, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = up(torch.cat([functional.interpolate(x, size=skip.shape[-2:]), skip], 1))
        return self.head(self.dropout(x.amax((2, 3))))


class Recurrent(nn.Module):
    """LSTM and GRU on tokens, and the last step that is no padding; packed or padded."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.embedding = nn.Embedding(VOCABULARY, 16, padding_idx=PAD)
        self.first, self.second = nn.LSTM(16, 32, batch_first=True), nn.GRU(32, 32, batch_first=True)
        self.between, self.dropout = nn.Linear(32, 32), nn.Dropout(0.2)
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        if self.packed:
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            _, (hidden, _) = self.first(packed)
            return self.fc(self.dropout(self.between(hidden[-1]).tanh()))
        steps, _ = self.second(self.between(self.first(x)[0]).tanh())
        last = steps[torch.arange(steps.shape[0]), lengths - 1]
        return self.fc(self.dropout(last))


class MixtureOfExperts(nn.Module):
    """Each example goes to two of four experts, by Python control flow on the values of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(12, 32), nn.ReLU())
        self.gate = nn.Linear(32, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(4))
        self.norm, self.middle, self.dropout = nn.LayerNorm(32), nn.Linear(32, 32), nn.Dropout(0.2)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weights, chosen = self.gate(x).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows, slots = torch.where(chosen == i)
            if rows.numel():
                out[rows] += weights[rows, slots, None] * expert(x[rows])
        return self.head(self.dropout(self.middle(self.norm(x + out)).relu()))


class QueryPooling(nn.Module):
    """Learned queries, a view of a parameter, that attend to the patches of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.blocks = nn.ModuleList([block, nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)])
        self.query = nn.Parameter(torch.randn(1, 1, 32))
        self.attention = nn.MultiheadAttention(32, 4, dropout=0.1, batch_first=True)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        query = self.query.expand(len(x), -1, -1)
        return self.head(self.attention(query, tokens, tokens, need_weights=False)[0][:, 0])


class Mixer(nn.Module):
    """MLP-Mixer block: over tokens, then over channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.over_tokens = nn.Sequential(nn.Linear(tokens, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, tokens))
        self.over_channels = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.over_channels(self.norms[1](x))


class MLPMixer(nn.Module):
    """MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.blocks = nn.Sequential(Mixer(16, 32), Mixer(16, 32), Mixer(16, 32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(1))


class MaskedTransformer(nn.Module):
    """`nn.TransformerEncoder` with `src_key_padding_mask` (True where padded), and a mean over what is not padded."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 3, enable_nested_tensor=False)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, tokens: Tensor, padded: Tensor) -> Tensor:
        x = self.encoder(self.embedding(tokens), src_key_padding_mask=padded)
        kept = (~padded)[..., None].to(x.dtype)
        return self.head((x * kept).sum(1) / kept.sum(1))


class TextCNN(nn.Module):
    """Convolutions over embeddings, zero where padded, and a maximum over time. Kim 2014."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16, padding_idx=PAD)
        self.first, self.second = nn.Conv1d(16, 32, 3, padding=1), nn.Conv1d(32, 32, 3, padding=1)
        self.dropout, self.fc = nn.Dropout(0.2), nn.Linear(32, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        kept = (input_ids != PAD)[:, None]
        x = self.first(self.embedding(input_ids).transpose(1, 2)).relu() * kept
        x = self.second(x).relu() * kept
        return self.fc(self.dropout(x.amax(2)))


class TwoInputs(nn.Module):
    """Image and table together."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(_conv(3, 8, 2), _conv(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.table = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.joint = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 32), nn.ReLU())
        self.head = nn.Linear(32, CLASSES)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.head(self.joint(torch.cat([self.image(image), self.table(table)], dim=1)))


class MadeInForward(nn.Module):
    """Activations and poolings made anew in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 16, 3, 2), nn.Conv2d(16, 32, 3)
        self.dropout, self.fc = nn.Dropout(0.2), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.ReLU()(self.first(x))
        x = nn.ReLU()(self.second(x))
        x = nn.AdaptiveAvgPool2d(1)(nn.ReLU()(self.third(x)))
        return self.fc(self.dropout(nn.Flatten()(x)))


class SharedLayer(nn.Module):
    """One layer that runs three times in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer = nn.Linear(12, 32), nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Dropout(0.1))
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = x + self.layer(x)
        return self.fc(x)


class HeadProtocol(nn.Module):
    """Network with the head protocol of timm: `forward_features`, `forward_head`, `get_classifier`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stages = _conv(3, 8, 2), nn.Sequential(_conv(8, 16, 2), Residual(16, 32, 2))
        self.norm, self.drop_rate, self.head = nn.BatchNorm2d(32), 0.2, nn.Linear(32, CLASSES)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self.stages(self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = functional.dropout(x.mean((2, 3)), self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def get_classifier(self) -> nn.Linear:
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class SequenceFirst(nn.Module):
    """`nn.TransformerEncoder` on tokens (T, N, C), as older code has them: the examples are not first."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1), 3)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).permute(2, 0, 1)
        return self.head(self.encoder(tokens).mean(0))
