import pytest
import torch
from torch import nn
from torch.nn import functional

from suffice.twin import inference
from suffice.variation.teachers import sites


class Functional(nn.Module):
    """Model that calls dropout as a function, in one of several ways."""

    def __init__(self, how) -> None:
        super().__init__()
        self.hidden, self.head, self.how = nn.Linear(3, 8), nn.Linear(8, 4), how

    def forward(self, x):
        return self.head(self.how(self, self.hidden(x)))


class Outer(nn.Module):
    def __init__(self, inner) -> None:
        super().__init__()
        self.inner, self.norm = inner, nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.inner(x))


class Attention(nn.Module):
    def __init__(self, rate) -> None:
        super().__init__()
        self.rate, self.head = rate, nn.Linear(4, 3)

    def forward(self, x):
        rate = self.rate if self.training else 0.0
        return self.head(functional.scaled_dot_product_attention(x, x, x, dropout_p=rate)[:, 0])


WAYS = {
    "function": lambda m, h: functional.dropout(h, 0.25, m.training),
    "keyword": lambda m, h: functional.dropout(h, p=0.25, training=m.training, inplace=False),
    "behind an if": lambda m, h: functional.dropout(h, 0.25) if m.training else h,
    "torch's own": lambda m, h: torch.dropout(h, 0.25, train=m.training),
}


def find_sites(model, x, at=None, rate=None):
    with inference(model) as twin:
        return sites.find(twin, x, rate, at)


def dropped_units(model, x, at=None, rate=None):
    """Return (rate, shape) of the units of each site in one call of the model."""
    units_of_sites = []

    def gate(site_rate, units):
        units_of_sites.append((site_rate, tuple(units.shape)))
        return torch.ones_like(units)

    chosen = find_sites(model, x, at, rate)
    with inference(model) as twin:
        sites.run(twin, x, chosen, len(x), gate, sites.refuse_attention)
    return units_of_sites


@pytest.mark.parametrize("way", WAYS)
def test_functional_dropout_is_found_in_the_module_that_calls_it(way):
    model = Outer(Functional(WAYS[way]))
    assert list(find_sites(model, torch.zeros(2, 3)).native) == ["inner"]
    assert dropped_units(model, torch.zeros(2, 3)) == [(0.25, (2, 8))]
    assert dropped_units(model, torch.zeros(2, 3), at="inner", rate=0.4) == [(0.4, (2, 8))]


@pytest.mark.parametrize(
    ("dropout", "shape", "units"),
    [
        (nn.Dropout(0.5), (2, 6, 4, 4), (2, 6, 4, 4)),
        (nn.Dropout(0.5, inplace=True), (2, 6), (2, 6)),
        (nn.Dropout1d(0.5), (2, 6, 4), (2, 6, 1)),
        (nn.Dropout2d(0.5), (2, 6, 4, 4), (2, 6, 1, 1)),
        (nn.Dropout3d(0.5), (2, 6, 4, 4, 4), (2, 6, 1, 1, 1)),
    ],
)
def test_channel_dropout_drops_whole_channels_and_plain_dropout_single_units(dropout, shape, units):
    assert dropped_units(nn.Sequential(dropout), torch.ones(shape)) == [(0.5, units)]


def test_names_select_sites_and_a_rate_replaces_their_own():
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.1), nn.Linear(8, 4), nn.Dropout(0.0))
    x = torch.zeros(2, 3)
    assert dropped_units(model, x) == [(0.1, (2, 8))]
    assert dropped_units(model, x, rate=0.4) == [(0.4, (2, 8))]
    assert dropped_units(model, x, at="1") == [(0.1, (2, 8))]
    assert dropped_units(model, x, at=["3", "0"], rate=0.4) == [(0.4, (2, 8)), (0.4, (2, 4))]


def test_the_inputs_and_embeddings_can_be_dropped():
    assert dropped_units(nn.Linear(3, 4), torch.zeros(2, 3), at=sites.INPUT, rate=0.4) == [(0.4, (2, 3))]
    model = nn.Sequential(nn.Embedding(5, 6), nn.Flatten(), nn.Linear(12, 4))
    assert dropped_units(model, torch.zeros(2, 2, dtype=torch.long), at="0", rate=0.4) == [(0.4, (2, 2, 6))]


def test_attention_is_found_and_its_rate_is_passed_on():
    model, x, rates = Attention(0.3), torch.randn(2, 5, 4), []
    chosen = find_sites(model, x)
    assert chosen.attention
    assert list(chosen.native) == [""]
    with inference(model) as twin:
        sites.run(twin, x, chosen, 2, None, lambda rate: rates.append(rate) or 0.0)
    assert rates == [0.3]
    with pytest.raises(ValueError, match=r"explicit mask, got attention dropout of rate 0.3, .* exclude it with at="):
        dropped_units(model, x)


def test_multi_head_attention_is_a_site_by_name_even_without_dropout_of_its_own():
    model = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    x, rates = torch.randn(2, 5, 4), []
    chosen = find_sites(model, x, at="self_attn", rate=0.3)
    with inference(model) as twin:
        sites.run(twin, x, chosen, 2, None, lambda rate: rates.append(rate) or 0.0)
    assert rates == [0.3]


def test_finding_sites_changes_neither_modes_nor_buffers_nor_random_state():
    model = Outer(Functional(WAYS["function"]))
    model.counter = nn.BatchNorm1d(4).train()
    model.inner.eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    find_sites(model, torch.ones(2, 3))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_buffers_that_training_mode_writes_do_not_change():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))
            self.dropout = nn.Dropout()

        def forward(self, x):
            if self.training:
                self.seen += 1
            return self.dropout(x)

    model = Counting()
    assert list(find_sites(model, torch.zeros(2, 3)).native) == ["dropout"]
    assert model.seen == 0


def test_functional_batch_normalization_stays_in_evaluation_mode():
    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            x = functional.dropout(x, 0.5, self.training)
            return functional.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=self.training)

    model, x = Normalized(), torch.randn(4, 3)
    chosen = find_sites(model, x)
    with inference(model) as twin:
        output = sites.run(twin, x, chosen, 4, lambda _, units: torch.ones_like(units), None)
    torch.testing.assert_close(output, x / (1 + 1e-5) ** 0.5)
    assert (model.norm.running_mean == 0).all()


def test_a_model_that_drops_nothing_is_refused():
    for model in (nn.Linear(3, 4), nn.Sequential(nn.Dropout(0.0)), Outer(nn.Linear(3, 4))):
        with pytest.raises(ValueError, match=r"drops units .* found nothing that does; .*at=\[…\], rate=…"):
            find_sites(model, torch.zeros(2, 3))


def test_a_module_that_drops_nothing_needs_a_rate():
    for at in ("0", sites.INPUT):
        with pytest.raises(ValueError, match=f"expected a rate for dropout at '{at}', which has none of its own"):
            find_sites(nn.Sequential(nn.ReLU()), torch.zeros(2, 3), at=at)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_dropout_whose_own_rate_is_out_of_range_is_refused_where_it_is_named(rate):
    with pytest.raises(ValueError, match=rf"rate in \(0, 1\) at '0', got {rate}"):
        find_sites(nn.Sequential(nn.Dropout(rate)), torch.zeros(2, 3), at="0")


def test_a_name_that_matches_nothing_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"got 'inner.hiden', which matches no module; nearest: \['inner.hidden"):
        find_sites(Outer(Functional(WAYS["function"])), torch.zeros(2, 3), at="inner.hiden")


@pytest.mark.parametrize("at", [None, "0"])
@pytest.mark.parametrize(("kind", "name"), [(nn.AlphaDropout, "alpha_dropout"), (nn.FeatureAlphaDropout, "feature_")])
def test_alpha_dropout_is_refused(kind, name, at):
    with pytest.raises(ValueError, match=f"expected dropout that multiplies by a mask, got {name}.* at '0'"):
        find_sites(nn.Sequential(kind(0.5), nn.Linear(3, 4)), torch.zeros(2, 3), at=at)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_dropout_between_recurrent_layers_is_refused(kind):
    with pytest.raises(ValueError, match="at '0', which drops between its own layers"):
        find_sites(nn.Sequential(kind(3, 4, num_layers=2, dropout=0.5)), torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="found nothing that does"):
        find_sites(nn.Sequential(kind(3, 4, num_layers=2)), torch.zeros(2, 5, 3))


def test_a_dropout_module_that_does_not_run_is_an_error_where_it_is_named():
    model = Functional(WAYS["function"])
    model.unused = nn.Dropout()
    with pytest.raises(RuntimeError, match=r"but \['unused'\] did not"):
        find_sites(model, torch.zeros(2, 3), at="unused")


def test_units_that_rows_share_are_refused():
    class SharedRow(nn.Module):
        def __init__(self):
            super().__init__()
            self.row, self.dropout = nn.Parameter(torch.ones(1, 3)), nn.Dropout(0.5)

        def forward(self, x):
            return x + self.dropout(self.row)

    with pytest.raises(ValueError, match=r"with the 4 rows .* got shape \(1, 3\).*share its mask"):
        dropped_units(SharedRow(), torch.zeros(4, 3))


def test_an_error_in_training_mode_has_a_note_about_the_mode():
    class Refusing(nn.Module):
        def forward(self, x):
            if self.training:
                raise KeyError("targets")
            return x

    with pytest.raises(KeyError, match="targets") as caught:
        find_sites(Refusing(), torch.zeros(2, 3))
    assert "in training mode, to find what it drops" in caught.value.__notes__[0]


def test_an_example_may_have_several_rows_of_units():
    class Halved(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def forward(self, x):
            return self.dropout(x.view(2 * len(x), -1)).view(len(x), -1)

    model, x = Halved().eval(), torch.ones(3, 8)
    chosen = sites.find(model, x, None, None)
    doubled = sites.run(model, x, chosen, 3, lambda _rate, units: 2 * torch.ones_like(units), sites.refuse_attention)
    assert torch.equal(doubled, 2 * x)
