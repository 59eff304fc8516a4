"""Models that cannot be cut, and arguments that do not fit."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import suffice
from tests import builders
from tests.attach.test_attach import attached
from tests.robustness.lookalikes import CLASSES, ResNet, Router, built


class FunctionalDropout(ResNet):
    """Model that branches on self.training outside its layers."""

    def forward(self, x):
        x = functional.dropout(self.layer2(self.layer1(self.conv1(x))), 0.5, training=self.training)
        return self.fc(self.layer3(x).mean((2, 3)))


def test_the_default_generator_is_unchanged():
    before = torch.get_rng_state()
    attached(ResNet, ["layer1"])
    with pytest.raises(ValueError, match=r"depends on self\.training"):
        attached(FunctionalDropout, ["layer1"], freeze=False)
    assert torch.equal(torch.get_rng_state(), before)


class TestRefused:
    def refused(self, kind, at, message, **options):
        model, x = built(kind)
        modes = [module.training for module in model.train().modules()]
        with pytest.raises(ValueError, match=message):
            suffice.attach_exits(model, at, example=x, **options)
        assert [module.training for module in model.modules()] == modes
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_a_name_that_is_not_there(self):
        self.refused(
            ResNet, ["layer1", "layer4"], r"got 'layer4', which is not the name of a module; nearest: \['layer\d'"
        )

    def test_other_classes(self):
        self.refused(ResNet, ["layer1"], "expected the 5 classes of the model's own classifier, got 7", num_classes=7)

    def test_control_flow_on_data_names_the_tensor_and_a_remedy_unless_frozen(self):
        message = r"TypeError: a condition on the values of a tensor, .*'gt'.*at=\[first, second"
        self.refused(Router, ["enter"], message, freeze=False)

    def test_control_flow_on_the_number_of_examples_unless_frozen(self):
        class Counting(ResNet):
            def forward(self, x):
                return super().forward(x if x.shape[0] > 2 else x * 1)

        self.refused(Counting, ["layer1"], "a condition that depends on the number of examples", freeze=False)

    def test_an_output_without_the_examples_first(self):
        class SequenceFirst(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer, self.fc = nn.Linear(8, 6), nn.Linear(6, CLASSES)

            def forward(self, x):
                return self.fc(self.layer(x[:, 0].transpose(0, 1)).mean(0))

        self.refused(SequenceFirst, ["layer"], r"'layer' to return a tensor with the examples first, got \(8, 2, 6\)")
        message = r"after 'layer' .* 'transpose'|expected 'layer' to return .* the output of 'layer'"
        self.refused(SequenceFirst, ["layer"], message, freeze=False)

    def test_a_module_that_runs_twice_or_not_at_all(self):
        class Unused(ResNet):
            def __init__(self):
                super().__init__()
                self.auxiliary = nn.Linear(3, 3)

        self.refused(ResNet, ["layer1.0.relu"], "expected 'layer1.0.relu' to run once in a pass, got 2 runs")
        self.refused(Unused, ["auxiliary"], "expected 'auxiliary' to run once in a pass, got 0 runs")

    @pytest.mark.parametrize("at", [["layer3", "layer3.0"], ["layer1", "layer1"]])
    def test_nothing_between_two_exits(self, at):
        self.refused(
            ResNet, at, rf"distinct modules before the classifier, got '{at[0]}.*' and '.*' with nothing between"
        )
        self.refused(ResNet, ["fc"], "modules before the classifier, got the classifier 'fc' itself")

    def test_a_pass_that_depends_on_self_training_unless_frozen(self):
        self.refused(FunctionalDropout, ["layer1"], "got one that depends on self.training", freeze=False)
        model, x = built(FunctionalDropout)
        assert torch.equal(suffice.attach_exits(model, ["layer1"], example=x)(x)[-1], model(x))

    def test_untraceable_branches_are_detected_by_the_logits_unless_frozen(self):
        class Typed(ResNet):
            def forward(self, x):
                return super().forward(x * 2 if isinstance(x, torch.Tensor) else x)

        self.refused(Typed, ["layer1"], "reproduce the model, got a maximum logit difference of", freeze=False)

    def test_neither_names_nor_stages(self):
        model, x = built(ResNet)
        for at in ([], [model.layer1, "layer2"]):
            with pytest.raises(TypeError, match="expected names of modules, or the stages as modules, got at="):
                suffice.attach_exits(model, at, example=x)

    def test_a_network_with_exits(self):
        net = builders.network()
        with pytest.raises(TypeError, match="expected a model without exits, got an ExitNetwork"):
            suffice.attach_exits(net, ["stages.0"], example=builders.inputs(2))
