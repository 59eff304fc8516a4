"""Miniatures of common architectures: residual, dense, U-shaped, transformers, and with control flow."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 5


class BasicBlock(nn.Module):
    """Residual block as in torchvision, with in-place rectifiers and a down-sampling shortcut."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        identity = x
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(BasicBlock(6, 6, 1), BasicBlock(6, 6, 1))
        self.layer2 = nn.Sequential(BasicBlock(6, 8, 2), BasicBlock(8, 8, 1))
        self.layer3 = nn.Sequential(BasicBlock(8, 10, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(10, CLASSES)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class DenseNet(nn.Module):
    """Network of layers that take the outputs of all previous layers, kept in a list."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(1 + 3 * i, 3, 3, padding=1) for i in range(4))
        self.classifier = nn.Linear(13, CLASSES)

    def forward(self, x):
        maps = [x]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, 1)).relu())
        return self.classifier(torch.cat(maps, 1).mean((2, 3)))


class UNet(nn.Module):
    """Network with a skip connection from the first to the last layer, across two possible cuts."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv2d(1, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 6, 3, 2, padding=1)
        self.deep = nn.Conv2d(6, 6, 3, padding=1)
        self.leave = nn.Conv2d(10, 8, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        skip = self.enter(x).tanh()
        h = self.deep(self.down(skip).tanh()).tanh()
        h = functional.interpolate(h, size=skip.shape[-2:])
        h = self.leave(torch.cat([skip, h], dim=1))
        return self.head(h.view(x.shape[0], h.size(1), -1).mean(-1))


class Layer(nn.Module):
    """Transformer layer as in Hugging Face's models, with a mask and a tuple as output."""

    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, hidden, mask=None):
        attended, weights = self.attention(hidden, hidden, hidden, key_padding_mask=mask)
        hidden = self.norm1(hidden + attended)
        return self.norm2(hidden + self.mlp(hidden)), weights


@dataclass
class Output:
    logits: Tensor
    hidden_states: tuple | None = None


class TextModel(nn.Module):
    """Text classifier on the mean of unmasked tokens, with keyword inputs and an output object."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(11, 8, padding_idx=0)
        self.positions = nn.Parameter(torch.zeros(1, 16, 8))
        self.layers = nn.ModuleList(Layer(8) for _ in range(3))
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        hidden = self.embeddings(input_ids) + self.positions[:, : input_ids.shape[1]]
        if labels is not None or hidden.dim() != 3:
            raise ValueError
        for layer in self.layers:
            out = layer(hidden, mask=attention_mask == 0)
            hidden = out[0] if isinstance(out, tuple) else out
        kept = attention_mask.unsqueeze(-1).to(hidden)
        return Output(logits=self.classifier((hidden * kept).sum(1) / kept.sum(1)))


class VisionTransformer(nn.Module):
    """PyTorch's own encoder with a classifier on the class token, which comes first."""

    def __init__(self, **options):
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 2, 2)
        self.first = nn.Parameter(torch.zeros(1, 1, 8))
        self.position = nn.Parameter(torch.zeros(1, 17, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, nn.LayerNorm(8), enable_nested_tensor=False)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        n, _, height, width = x.shape
        assert height == width, "square images"
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(n, -1, -1), tokens], dim=1) + self.position
        return self.head(self.encoder(tokens)[:, 0])


class Router(nn.Module):
    """Network with control flow on data, which torch.fx cannot trace."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(64, 6)
        self.middle = nn.Linear(6, 6)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x):
        h = self.enter(x.flatten(1)).tanh()
        if h.sum() > 1e9:
            h = h * 0
        return self.fc(self.middle(h).tanh())


def built(kind, **options):
    """Return a model with random weights in evaluation mode, and twelve inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(**options)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
        for name in ("first", "position", "positions"):
            if isinstance(getattr(model, name, None), nn.Parameter):
                nn.init.normal_(getattr(model, name))
    generator = torch.Generator().manual_seed(1)
    if kind is TextModel:
        mask = torch.randint(2, (12, 7), generator=generator).index_fill(1, torch.tensor(0), 1)
        return model.eval(), {
            "input_ids": torch.randint(11, (12, 7), generator=generator),
            "attention_mask": mask,
        }
    return model.eval(), torch.randn(12, 1, 8, 8, generator=generator)


def logits_of(model, x):
    output = model(**x) if isinstance(x, dict) else model(x)
    return getattr(output, "logits", output)
