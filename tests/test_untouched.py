"""Whatever looks at a model leaves it as it was, and answers as the model alone does, wherever it is called."""

import pytest
import torch

from suffice.utils.nest import tree_leaves
from tests import entries, odd
from tests.surroundings import SURROUNDINGS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* inputs are far outside"),
    pytest.mark.filterwarnings("ignore:.* ended at the edge of its range"),
]


class BurntError(Exception):
    pass


WORLDS = {name: world for name, world in SURROUNDINGS.items() if name != "autocast"}  # which estimators follow


def ambient():
    """What of torch all code shares."""
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
    return *modes, torch.get_rng_state().numpy().tobytes()


def check_same(found, expected):
    for a, b in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture(params=odd.MODELS)
def name(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_fuse():
    yield
    odd.Fuse.set()


@pytest.mark.parametrize("entry", entries.ENTRIES)
def test_a_model_is_as_it_was(name, entry):
    model, (prepare, look) = odd.made(name), entries.ENTRIES[entry]
    prepared = prepare(model)
    before, around = odd.described(model), ambient()
    look(model, prepared, entries.inputs(seed=2))
    assert odd.described(model) == before
    assert ambient() == around


@pytest.mark.parametrize("entry", entries.ENTRIES)
def test_a_model_is_as_it_was_after_an_error_in_the_first_or_last_pass(name, entry):
    model, (prepare, look) = odd.made(name), entries.ENTRIES[entry]
    prepared, x = prepare(model), entries.inputs(seed=2)
    odd.Fuse.set()
    right = look(model, prepared, x)
    before, around, calls = odd.described(model), ambient(), odd.Fuse.calls
    for position, error in ((1, BurntError), ((calls + 1) // 2, KeyboardInterrupt), (calls, KeyboardInterrupt)):
        odd.Fuse.set(position, error("in the middle of a pass"))
        with pytest.raises(error):
            look(model, prepared, x)
        assert odd.described(model) == before
        assert ambient() == around
    odd.Fuse.set()
    if entry != "audit":  # which holds NaN where a spread is not told
        check_same(look(model, prepared, x), right)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("entry", entries.ENTRIES)
@pytest.mark.parametrize("name", ["mixed", "normed", "counts", "aside"], indirect=True)
def test_answers_do_not_depend_on_the_modes_around(name, entry, world):
    prepare, look = entries.ENTRIES[entry]
    model, x = odd.made(name), entries.inputs(seed=2)
    right = look(model, prepare(model), x)
    with WORLDS[world]():
        found = look(model, prepare(model), x)
    check_same(found, right)


def test_outputs_are_those_of_the_model_alone(name):
    model, other, x = odd.made(name), odd.made(name).eval(), entries.inputs(seed=2)
    with torch.no_grad():
        alone = other(x)
    for entry in ("capture", "estimator", "buckets"):
        prepare, look = entries.ENTRIES[entry]
        output, _ = look(model, prepare(model), x)
        check_same(output, alone)
