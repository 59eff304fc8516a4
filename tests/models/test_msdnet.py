import pytest
import torch
from torch.nn import functional

from suffice import cost, models
from suffice.models.msdnet import SETTINGS, MSDNetConfig, convert_name, load_public_weights

SMALL = ["cifar-small", "cifar-medium", "cifar-large"]
PUBLISHED = {
    "cifar-small": (1.42, [6.8, 14.2, 25.9, 37.7]),
    "cifar-medium": (2.85, [6.8, 14.2, 27.0, 46.2, 66.9, 88.6]),
    "cifar-large": (5.31, [6.8, 14.2, 27.0, 48.1, 81.0, 111.9, 152.1, 191.8]),
}


def parameters(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("setting", SMALL)
def test_parameters_and_multiply_adds_are_the_published_ones(setting):
    net = models.msdnet(setting, 100)
    millions, macs = PUBLISHED[setting]
    assert parameters(net) / 1e6 == pytest.approx(millions, rel=0.01)
    counted = cost.count(net, torch.zeros(1, 3, 32, 32)).network
    assert [m / 1e6 for m in counted] == pytest.approx(macs, rel=0.01)
    assert {net.exit(k).classifier.in_features for k in range(len(macs))} == {128}


def test_the_largest_imagenet_network_has_the_published_size_at_every_exit():
    net = models.msdnet("imagenet-7", 1000)
    upto = [parameters(net.stages[: k + 1], net.exits[: k + 1]) / 1e6 for k in range(5)]
    assert upto == pytest.approx([8.76, 20.15, 31.73, 41.86, 62.31], rel=0.01)
    with torch.device("meta"):
        net = models.msdnet("imagenet-7", 1000)
        costs = cost.count(net, torch.zeros(1, 3, 224, 224))
    assert costs.network[-1] / 1e9 == pytest.approx(3.25, rel=0.01)


@pytest.mark.parametrize("size", [8, 28, 64])
def test_images_of_other_sizes_and_channels_are_accepted(size):
    net = models.msdnet(MSDNetConfig("small", 4, 2, (1, 2), (1, 2)), 5, in_channels=1).eval()
    assert [tuple(logits.shape) for logits in net(torch.zeros(2, 1, size, size))] == [(2, 5)] * 2


def test_examples_are_independent_in_evaluation_mode():
    net = models.msdnet(MSDNetConfig("small", 4, 2, (1, 2, 4), (1, 2, 3)), 5).eval()
    x = images(6)
    for whole, part in zip(net(x), net(x[2:3]), strict=True):
        torch.testing.assert_close(whole[2:3], part)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"expected one of \['cifar-large'.*or an MSDNetConfig, got 'cifar'"):
        models.msdnet("cifar", 10)
    with pytest.raises(ValueError, match=r"expected an even growth.*got 5"):
        MSDNetConfig("small", 16, 5, (1, 2, 4), (1, 2))


# ---- reference implementation of the public layout ----


def images(count, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


class Public:
    """Public network with random weights by public name, which are created on first use."""

    def __init__(self, setting, classes):
        self.setting, self.classes, self.weights = setting, classes, {}
        self.generator = torch.Generator().manual_seed(1)
        self.layers, self.scales = sum(setting.layers), len(setting.factors)

    def weight(self, name, *shape, spread=1.0, around=0.0):
        if name not in self.weights:
            self.weights[name] = around + spread * torch.randn(*shape, generator=self.generator)
        assert self.weights[name].shape == shape
        return self.weights[name]

    def batch_norm(self, name, x):
        c = x.shape[1]
        self.weights.setdefault(f"{name}.num_batches_tracked", torch.tensor(7))
        mean, shift = (self.weight(f"{name}.{part}", c, spread=0.1) for part in ("running_mean", "bias"))
        variance, scale = (
            self.weight(f"{name}.{part}", c, spread=0.1, around=1.0) for part in ("running_var", "weight")
        )
        return functional.batch_norm(x, mean, variance, scale, shift)

    def conv(self, name, at, x, out, size, stride=1, padding=None, bias=False):
        """Apply convolution number `at` of a sequence, batch normalization at + 1, and ReLU."""
        fan = x.shape[1] * size * size
        kernel = self.weight(f"{name}.{at}.weight", out, x.shape[1], size, size, spread=(2 / fan) ** 0.5)
        offset = self.weight(f"{name}.{at}.bias", out) if bias else None
        x = functional.conv2d(x, kernel, offset, stride, size // 2 if padding is None else padding)
        return functional.relu(self.batch_norm(f"{name}.{at + 1}", x))

    def bottleneck(self, name, x, out, factor, stride):
        x = self.conv(f"{name}.net", 0, x, min(x.shape[1], factor * out), 1)
        return self.conv(f"{name}.net", 3, x, out, 3, stride)

    def first(self, name, x):
        maps, channels = [], [self.setting.channels * f for f in self.setting.factors]
        for s in range(self.scales):
            if s == 0 and self.setting.stem == "large":
                x = self.conv(f"{name}.layers.0", 0, x, channels[0], 7, 2, 3, bias=True)
                x = functional.max_pool2d(x, 3, 2, 1)
            else:
                x = self.conv(f"{name}.layers.{s}.net", 0, x, channels[s], 3, 1 if s == 0 else 2)
            maps.append(x)
        return maps

    def layer(self, name, maps, num_scales):
        dropping, new = len(maps) > num_scales, []
        for i in range(num_scales):
            s = self.scales - num_scales + i
            factor, growth = self.setting.factors[s], self.setting.growth * self.setting.factors[s]
            current = maps[i + 1] if dropping else maps[i]
            if i == 0 and not dropping:
                normal = self.bottleneck(f"{name}.layers.0.conv_normal", current, growth, factor, 1)
                new.append(torch.cat([current, normal], 1))
                continue
            finer = maps[i] if dropping else maps[i - 1]
            half, before = growth // 2, self.setting.factors[s - 1]
            down = self.bottleneck(f"{name}.layers.{i}.conv_down", finer, half, before, 2)
            normal = self.bottleneck(f"{name}.layers.{i}.conv_normal", current, half, factor, 1)
            new.append(torch.cat([current, down, normal], 1))
        return new

    def __call__(self, maps):
        outputs, done = [], 0
        interval = -(-self.layers // self.scales)
        for i, count in enumerate(self.setting.layers):
            j = 0
            if i == 0:
                maps, j = self.first("blocks.0.0", maps), 1
            for _ in range(count):
                done += 1
                num_scales = self.scales - (done - 1) // interval
                dropping = len(maps) > num_scales
                maps, j = self.layer(f"blocks.{i}.{j}", maps, num_scales), j + 1
                if dropping:
                    factors = self.setting.factors[-num_scales:]
                    halved = maps[-1].shape[1] // factors[-1] // 2
                    maps = [
                        self.conv(f"blocks.{i}.{j}.m.{s}.net", 0, maps[s], halved * factors[s], 1)
                        for s in range(num_scales)
                    ]
                    j += 1
            outputs.append(self.classify(f"classifier.{i}", maps[-1]))
        return outputs

    def classify(self, name, x):
        width = 128 if self.setting.stem == "small" else x.shape[1]
        x = self.conv(f"{name}.m.0.net", 0, x, width, 3, 2)
        x = self.conv(f"{name}.m.1.net", 0, x, width, 3, 2)
        x = functional.avg_pool2d(x, 2).flatten(1)
        weight = self.weight(f"{name}.linear.weight", self.classes, width)
        return functional.linear(x, weight, self.weight(f"{name}.linear.bias", self.classes))


@pytest.mark.parametrize(("setting", "size"), [*((name, 32) for name in SMALL), ("imagenet-4", 224)])
def test_weights_of_the_public_layout_give_the_public_networks_logits(setting, size):
    public, x = Public(SETTINGS[setting], 10), images(1, size)
    expected = public(x)
    net = models.msdnet(setting, 10).eval()
    assert sorted(map(convert_name, public.weights)) == sorted(net.state_dict())
    load_public_weights(net, public.weights)
    with torch.no_grad():
        outputs = net(x)
    for reference, logits in zip(expected, outputs, strict=True):
        torch.testing.assert_close(logits, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


class TestPublicWeights:
    SETTING = MSDNetConfig("small", 4, 2, (1, 2, 4), (1, 2))

    def weights(self):
        public = Public(self.SETTING, 5)
        public(images(1))
        return public.weights

    def test_a_data_parallel_prefix_and_missing_counters_are_accepted(self):
        weights = self.weights()
        plain, prefixed = models.msdnet(self.SETTING, 5), models.msdnet(self.SETTING, 5)
        load_public_weights(plain, weights)
        old = {f"module.{name}": w for name, w in weights.items() if not name.endswith("num_batches_tracked")}
        load_public_weights(prefixed, old)
        for name, tensor in plain.state_dict().items():
            assert name.endswith("num_batches_tracked") or torch.equal(tensor, prefixed.state_dict()[name])

    @pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
    def test_weights_of_another_configuration_are_refused_and_nothing_is_changed(self, change):
        weights = self.weights()
        name = "classifier.1.linear.weight"
        if change == "missing":
            del weights[name]
        elif change == "unknown":
            weights[f"{name}.more"] = torch.zeros(1)
        else:
            weights[name] = weights[name][:-1]
        net = models.msdnet(self.SETTING, 5)
        before = [tensor.clone() for tensor in net.state_dict().values()]
        counts = r"1 missing and 0" if change == "missing" else r"0 missing and 1"
        with pytest.raises(ValueError, match=rf"{counts} unknown or of another shape.*'exits\.1\.classifier\.weight"):
            load_public_weights(net, weights)
        assert all(map(torch.equal, before, net.state_dict().values()))
