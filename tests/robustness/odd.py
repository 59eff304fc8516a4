"""Models that are hard to inspect without side effects, each with inputs (N, 6) and logits of four classes."""

import logging
import random
import threading
import types
import warnings
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

INPUTS, WIDTH, CLASSES = 6, 8, 4


class Fuse:
    """Counter of the calls of `Fused` modules, which raises an error at a chosen call."""

    calls = 0
    last: int | None = None
    error: BaseException | None = None

    @classmethod
    def set(cls, last: int | None = None, error: BaseException | None = None) -> None:
        cls.calls, cls.last, cls.error = 0, last, error


class Fused(nn.Module):
    """Identity that raises the error of `Fuse` at the chosen call."""

    def forward(self, x):
        Fuse.calls += 1
        if Fuse.calls == Fuse.last:
            raise Fuse.error
        return x


def layers(*between: nn.Module) -> list[nn.Module]:
    return [
        nn.Linear(INPUTS, WIDTH),
        nn.ReLU(),
        Fused(),
        *between,
        nn.Dropout(0.3),
        nn.Linear(WIDTH, CLASSES),
    ]


class Odd(nn.Module):
    """Two layers with dropout between them; subclasses change the hidden units."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.fused = nn.Linear(INPUTS, WIDTH), nn.ReLU(), Fused()
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.last(self.drop(self.between(self.fused(self.act(self.first(x))))))

    def between(self, h):
        return h


class Counts(Odd):
    """Model that writes into one buffer and assigns another at every call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(WIDTH))

    def between(self, h):
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(dim=0)
        return h


class Keeps(Odd):
    """Model that stores tensors in a list, a deque, a dict and an attribute."""

    def __init__(self):
        super().__init__()
        self.seen, self.recent, self.named, self.h = [], deque(maxlen=2), {"nest": {}}, None

    def between(self, h):
        self.h = h
        self.seen.append(h)
        self.recent.append(h)
        self.named["nest"][len(self.seen)] = h
        return h


@dataclass(slots=True)
class Slots:
    h: Tensor | None = None


class Locked:
    """Object that can be copied although its lock cannot."""

    def __init__(self):
        self.lock, self.h = threading.Lock(), None

    def __getstate__(self):
        return {**vars(self)}

    def __copy__(self):
        new = Locked()
        vars(new).update(vars(self))
        return new


class Caches(Odd):
    """Model that passes values to a later layer through objects of several kinds."""

    def __init__(self):
        super().__init__()
        self.plain, self.slots, self.locked = types.SimpleNamespace(), Slots(), Locked()
        self.middle = nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Linear(64, WIDTH))

    def between(self, h):
        self.plain.h = self.slots.h = self.locked.h = h
        middle = self.middle(h)
        return middle + self.plain.h + self.slots.h + self.locked.h


class Constrained(nn.Linear):
    """Layer that constrains its weights in training mode, in two ways, and applies dropout itself."""

    def forward(self, x):
        if self.training:
            self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.5)
            with torch.no_grad():
                self.weight.clamp_(-0.2, 0.2)
        return functional.dropout(super().forward(x), 0.2, self.training)


class Noisy(Odd):
    """Model that draws numbers without an effect in training mode, and applies functional dropout."""

    def between(self, h):
        if self.training:
            h = h + 0 * torch.randn_like(h)
        return functional.dropout(h, 0.3, self.training)


class Functional(Odd):
    """Model with functional dropout whose rate is stored in a plain object."""

    class Options:
        rate = 0.25

    def __init__(self):
        super().__init__()
        self.drop, self.options = nn.Identity(), Functional.Options()

    def between(self, h):
        self.options.last = h.shape
        return functional.dropout(h, self.options.rate, self.training)


class Watched(Odd):
    """Model with its own hooks, which write attributes."""

    def __init__(self):
        super().__init__()
        self.features = {}
        self.act.register_forward_hook(lambda module, args, output: self.features.update(last=output))
        self.first.register_forward_pre_hook(self.note)

    def note(self, module, args):
        self.inputs = args[0]


class Dotted(Odd):
    """Model with custom attribute access."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "extras", {})

    def __getattr__(self, name):
        extras = self.__dict__.get("extras", {})
        return extras[name] if name in extras else super().__getattr__(name)

    def __setattr__(self, name, value):
        if name.startswith("extra_"):
            self.extras[name] = value
        else:
            super().__setattr__(name, value)

    def between(self, h):
        self.extra_mean = h.mean()
        return h + 0 * self.extra_mean


class Equipped(Odd):
    """Model that holds a lock, a logger, random generators and a bound method."""

    def __init__(self):
        super().__init__()
        self.lock, self.log, self.draws = threading.Lock(), logging.getLogger("odd"), random.Random(0)
        self.generator, self.middle = torch.Generator().manual_seed(0), self.doubled

    def doubled(self, h):
        return 2 * h

    def between(self, h):
        with self.lock:
            torch.rand(1, generator=self.generator)
            return self.middle(h)


class Attends(Odd):
    """Model with a transformer layer, which has a fast path in evaluation mode and attention dropout."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(3, WIDTH))
        self.attention = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.2, batch_first=True)

    def between(self, h):
        return self.attention(h[:, None] + self.positions).mean(dim=1)


class Renormed(nn.Module):
    """Model with an embedding that renormalizes its weights at lookup."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, WIDTH, max_norm=0.5)
        self.act, self.fused, self.drop, self.last = nn.ReLU(), Fused(), nn.Dropout(0.3), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        rows = (x.abs() * 3).long().clamp(max=9)
        return self.last(self.drop(self.fused(self.act(self.table(rows).mean(dim=1)))))


class Aside(Odd):
    """Model that returns logits and those of an auxiliary head; the heads share a bias."""

    def __init__(self):
        super().__init__()
        self.aside = nn.Linear(WIDTH, CLASSES)
        self.aside.bias = self.last.bias

    def forward(self, x):
        h = self.fused(self.act(self.first(x)))
        return self.last(self.drop(h)), self.aside(h)


def mixed() -> nn.Module:
    """Return a model in training mode with a frozen part, as in fine-tuning."""
    model = nn.Sequential(*layers(nn.BatchNorm1d(WIDTH))).train()
    model[0].eval().requires_grad_(False)
    return model


def normed() -> nn.Module:
    model = nn.Sequential(*layers(nn.BatchNorm1d(WIDTH), parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))))
    parametrizations.weight_norm(model[0])
    return model.train()


def headed() -> nn.Module:
    """Return a model in training mode, where reading the weights of its head changes them."""
    return nn.Sequential(*layers()[:-1], parametrizations.spectral_norm(nn.Linear(WIDTH, CLASSES))).train()


def shared() -> nn.Module:
    """Return a model that uses one activation and one linear layer twice."""
    act, middle = nn.ReLU(), nn.Linear(WIDTH, WIDTH)
    return nn.Sequential(nn.Linear(INPUTS, WIDTH), act, Fused(), middle, act, middle, nn.Dropout(0.3), nn.Linear(8, 4))


def with_gradients() -> nn.Module:
    """Return a model with gradients, as in the middle of a training step."""
    model = nn.Sequential(*layers()).train()
    model(torch.ones(2, INPUTS)).sum().backward()
    return model


def old_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(*layers(nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH)))).eval()


MODELS = {
    "sequential": lambda: nn.Sequential(*layers()).eval(),
    "mixed": mixed,
    "normed": normed,
    "old_normed": old_normed,
    "shared": shared,
    "with_gradients": with_gradients,
    "counts": lambda: Counts().train(),
    "keeps": lambda: Keeps().eval(),
    "caches": lambda: Caches().eval(),
    "constrained": lambda: nn.Sequential(*layers(Constrained(WIDTH, WIDTH))).eval(),
    "noisy": lambda: Noisy().eval(),
    "headed": headed,
    "functional": lambda: Functional().train(),
    "watched": lambda: Watched().eval(),
    "dotted": lambda: Dotted().eval(),
    "equipped": lambda: Equipped().eval(),
    "attends": lambda: Attends().eval(),
    "renormed": lambda: Renormed().eval(),
    "aside": lambda: Aside().train(),
}


def build(name: str) -> nn.Module:
    """Build a model by name, with the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[name]()


def snapshot(value: object, visited: set[int] | None = None) -> object:
    """Return the contents and identities of all objects that an object holds, for comparison with a later snapshot."""
    visited = set() if visited is None else visited
    if isinstance(value, Tensor):
        values = value.detach().clone().view(-1).tolist()
        gradient = snapshot(value.grad, visited) if value.is_leaf and value.grad is not None else None
        return id(value), value._version, value.requires_grad, value.dtype, values, gradient
    if id(value) in visited or isinstance(value, (type, logging.Logger)):
        return id(value)
    if isinstance(value, types.MethodType):
        return id(value.__self__), value.__func__
    if isinstance(value, torch.Generator):
        return id(value), value.get_state().tolist()
    if isinstance(value, random.Random):
        return id(value), value.getstate()
    if type(value).__module__ == "builtins" and not isinstance(value, (dict, list, tuple, set)):
        return id(value) if callable(value) else value
    visited.add(id(value))
    if isinstance(value, dict):
        return id(value), [(key, snapshot(item, visited)) for key, item in value.items()]
    if isinstance(value, (list, tuple, set, deque)):
        return type(value).__name__, [snapshot(item, visited) for item in value]
    slots = getattr(type(value), "__slots__", ()) if type(value).__module__ == __name__ else ()
    return (
        id(value),
        snapshot(getattr(value, "__dict__", None), visited),
        [snapshot(getattr(value, name, None), visited) for name in slots],
    )
