"""Miniatures of plain classifiers in the styles of common libraries, with inputs and loaders for them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import suffice
from tests import builders

CLASSES = 4


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)) + x)


class ResNet(nn.Module):
    """Miniature of torchvision: flatten in forward, a layer named fc."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.layer1 = Residual(6)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x):
        x = self.layer1(functional.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Timm(nn.Module):
    """Miniature of timm: forward_features, and forward_head with dropout before the linear layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(16, 8)
        self.norm = nn.LayerNorm(8)
        self.fc_norm = nn.Identity()
        self.head_drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, CLASSES)

    def forward_features(self, x):
        return self.norm(self.embed(x.flatten(1).unflatten(1, (4, 16))))

    def forward_head(self, x, pre_logits=False):
        x = self.head_drop(self.fc_norm(x.mean(dim=1)))
        return x if pre_logits else self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class Tupled(ResNet):
    """Model that returns logits, features and the logits of an auxiliary head that runs last."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Linear(6, CLASSES)

    def forward(self, x):
        x = torch.flatten(self.avgpool(self.conv1(x)), 1)
        return self.fc(x), x, self.auxiliary(x)


@dataclass
class Output:
    logits: Tensor
    hidden_states: tuple = ()


class HuggingFace(nn.Module):
    """Model with token ids and a mask as keyword arguments, and an output with .logits."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(11, 8, padding_idx=0)
        self.dense = nn.Linear(8, 8)
        self.classifier = nn.Linear(8, CLASSES, bias=False)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        assert labels is None
        weight = attention_mask[..., None] / attention_mask.sum(dim=1)[:, None, None]
        pooled = (self.embeddings(input_ids) * weight).sum(dim=1)
        return Output(logits=self.classifier(input=torch.tanh(self.dense(pooled))))


def built(kind):
    """Return a model with random weights in evaluation mode, and inputs for it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight)
    generator = torch.Generator().manual_seed(1)
    if kind is HuggingFace:
        x = {
            "input_ids": torch.randint(11, (90, 5), generator=generator),
            "attention_mask": torch.randint(2, (90, 5), generator=generator).index_fill(1, torch.tensor(0), 1),
        }
    else:
        x = torch.randn(90, 1, 8, 8, generator=generator)
    return model.eval(), x


def logits_of(model, x):
    output = model(**x) if isinstance(x, dict) else model(x)
    return (output[0] if isinstance(output, tuple) else getattr(output, "logits", output)).detach()


def batches_of(model, x):
    labels = builders.sampled_labels(logits_of(model, x), 1.5)
    if isinstance(x, dict):
        parts = [tensor.split(32) for tensor in x.values()]
        return [dict(zip([*x, "labels"], part, strict=True)) for part in zip(*parts, labels.split(32), strict=True)]
    return builders.batched(x, labels, 32)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def calibrate(model, train, val=None, **options):
    generator = torch.Generator().manual_seed(0)
    return suffice.calibrate(model, train, train if val is None else val, samples=8, generator=generator, **options)
