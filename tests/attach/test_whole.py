"""Changes of the logits that only some data show: every batch of a calibration is compared with the model's output."""

import pytest
import torch

import suffice
from suffice.attach.cutting.replay import Stage
from suffice.attach.whole import check_same
from tests.attach.test_behind import Ending
from tests.attach.tokens.test_masks import Decoder, texts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of untrained exits
X = torch.cat([torch.linspace(-0.1, 0.1, 72).view(9, 8), torch.full((3, 8), 5.0)])
Y = torch.arange(12) % 4


def where_logits_are_large(z, x):
    return z.clamp(-0.1, 0.1) if z.abs().max() > 0.8 else z


def where_inputs_are_large(z, x):
    return z.sort(dim=1).values if x.max() > 2 else z


def scaled(after):
    torch.manual_seed(0)
    return Ending(after).eval()


def calibrate(model, rows, **options):
    batches = [(X[i : i + 3], Y[i : i + 3]) for i in range(0, rows, 3)]
    return suffice.calibrate(model, batches, batches, structure=None, temperature=False, ensemble=False, **options)


@pytest.mark.parametrize("after", [where_logits_are_large, where_inputs_are_large])
@pytest.mark.parametrize("attached", [False, True])
def test_a_branch_that_some_data_take_is_refused_at_their_position(after, attached):
    model = scaled(after)
    network = suffice.attach_exits(model, "body", example=X[:3]) if attached else model
    if attached:
        assert isinstance(network.stages[-1].stage, Stage)  # the pass cannot be traced
    torch.testing.assert_close(calibrate(network, 9)(X[:9])[-1].probs, model(X[:9]).softmax(1))
    with pytest.raises(ValueError, match=r"classifier 'fc' as the model's, got another, by up to .* at position 9"):
        calibrate(network, 12)


def test_training_data_are_compared_where_there_are_no_others():
    with pytest.raises(ValueError, match="at position 9"):
        suffice.calibrate(scaled(where_inputs_are_large), [(X[:9], Y[:9]), (X[9:], Y[9:])], None, tuning="evidence")


def test_given_stages_are_compared():
    model = scaled(where_logits_are_large)

    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, state):
            return model.after(self.model.fc(state.tanh()), state)

    network = suffice.attach_exits(model, [model.body, Last()], example=X[:3])
    calibrate(network, 9)
    with pytest.raises(ValueError, match="at position 9"):
        calibrate(network, 12)


def test_positions_that_a_decoder_selects_are_compared():
    class Sometimes(Decoder):
        def forward(self, ids):
            logits = super().forward(ids)
            return logits.flip(1) if bool((ids[:, 0] == 1).any()) else logits

    torch.manual_seed(0)
    model, ids = Sometimes().eval(), texts([7, 4, 5, 2] * 4, 7)
    ids[:, 0] = 2
    labels = torch.arange(16) % model(ids).shape[1]
    batches = [(ids[:8], labels[:8]), (ids[8:], labels[8:])]
    suffice.calibrate(model, batches, batches, structure=None)
    ids[8:, 0] = 1
    with pytest.raises(ValueError, match="at position 8"):
        suffice.calibrate(model, batches, batches, structure=None)


def test_outputs_are_compared_in_order_and_a_nan_equals_a_nan():
    logits = torch.tensor([[1.0], [torch.nan], [torch.inf]])
    check_same("fc", logits, logits[:, 0])
    with pytest.raises(ValueError, match="position 2"):
        check_same("fc", logits, torch.tensor([1.0, torch.nan, 0.0]))
    with pytest.raises(ValueError, match=r"an output of shape \(2, 1\) for logits of shape \(3, 1\)"):
        check_same("fc", logits, logits[:2])
