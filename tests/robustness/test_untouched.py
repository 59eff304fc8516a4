"""Entry points leave the model and torch's global state unchanged, and their results do not depend on that state."""

import pytest
import torch

from suffice.utils.nest import tree_leaves
from tests.robustness import entries, odd
from tests.robustness.surroundings import SURROUNDINGS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* inputs are outside"),
    pytest.mark.filterwarnings("ignore:.* ended at the edge of its range"),
]


class InjectedError(Exception):
    pass


MODES = {name: mode for name, mode in SURROUNDINGS.items() if name != "autocast"}  # estimators follow autocast


def global_state():
    """Return torch's modes, default type and generator state."""
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
    return *modes, torch.get_rng_state().numpy().tobytes()


def check_same(result, expected):
    for a, b in zip(tree_leaves(result), tree_leaves(expected), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def third(*positions):
    """Return the marks of a test: one in three is fast, some of each model and each entry point."""
    return () if sum(positions) % 3 == 0 else pytest.mark.slow


PAIRS = [
    pytest.param(name, entry, marks=third(i, j))
    for i, name in enumerate(odd.MODELS)
    for j, entry in enumerate(entries.ENTRIES)
]
AMBIENT = [
    pytest.param(name, entry, mode, marks=third(i, j, k))
    for i, name in enumerate(("mixed", "normed", "counts", "aside"))
    for j, entry in enumerate(entries.ENTRIES)
    for k, mode in enumerate(MODES)
]


@pytest.fixture(autouse=True)
def _no_fuse():
    yield
    odd.Fuse.set()


@pytest.mark.parametrize(("name", "entry"), PAIRS)
def test_a_model_is_unchanged(name, entry):
    model, (prepare, run) = odd.build(name), entries.ENTRIES[entry]
    prepared = prepare(model)
    before, state = odd.snapshot(model), global_state()
    run(model, prepared, entries.inputs(seed=2))
    assert odd.snapshot(model) == before
    assert global_state() == state


@pytest.mark.parametrize(("name", "entry"), PAIRS)
def test_a_model_is_unchanged_after_an_error_in_the_first_or_last_pass(name, entry):
    model, (prepare, run) = odd.build(name), entries.ENTRIES[entry]
    prepared, x = prepare(model), entries.inputs(seed=2)
    odd.Fuse.set()
    expected = run(model, prepared, x)
    before, state, calls = odd.snapshot(model), global_state(), odd.Fuse.calls
    for position, error in ((1, InjectedError), ((calls + 1) // 2, KeyboardInterrupt), (calls, KeyboardInterrupt)):
        odd.Fuse.set(position, error("in the middle of a pass"))
        with pytest.raises(error):
            run(model, prepared, x)
        assert odd.snapshot(model) == before
        assert global_state() == state
    odd.Fuse.set()
    if entry != "audit":  # an audit may hold NaN, which is not equal to itself
        check_same(run(model, prepared, x), expected)


@pytest.mark.parametrize(("name", "entry", "mode"), AMBIENT)
def test_results_do_not_depend_on_ambient_modes(name, entry, mode):
    prepare, run = entries.ENTRIES[entry]
    model, x = odd.build(name), entries.inputs(seed=2)
    expected = run(model, prepare(model), x)
    with MODES[mode]():
        result = run(model, prepare(model), x)
    check_same(result, expected)


@pytest.mark.parametrize("name", odd.MODELS)
def test_outputs_equal_those_of_the_model(name):
    model, reference, x = odd.build(name), odd.build(name).eval(), entries.inputs(seed=2)
    with torch.no_grad():
        expected = reference(x)
    for entry in ("capture", "estimator", "buckets"):
        prepare, run = entries.ENTRIES[entry]
        output, _ = run(model, prepare(model), x)
        check_same(output, expected)
