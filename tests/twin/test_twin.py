from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn

import suffice
from suffice import cost
from suffice.twin import Twin, copy_parameters, inference

PASSES = {
    "teacher": lambda model, x: suffice.MCDropout(passes=2)(model, x),
    "macs": cost.macs,
    "calibrate": lambda model, x: suffice.calibrate(model, [(x, torch.zeros(len(x)).long())], None, tuning="evidence"),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_model_with_uninitialized_lazy_modules_is_refused_and_left_so(name):
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4))
    with pytest.raises(ValueError, match=r"initialized lazy modules, got an uninitialized parameter at .* LazyLinear"):
        PASSES[name](model, torch.randn(6, 5))
    assert model[0].has_uninitialized_params()


def openmp_threads() -> int:
    """Return the largest number of threads for the calling thread of an OpenMP library; scikit-learn has its own."""
    return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp")


def in_a_new_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_in_a_new_thread_a_model_runs_with_the_number_of_threads_that_torch_was_given():
    def openmp_threads_of_a_pass():
        with inference(nn.Linear(2, 2)):
            return openmp_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(in_a_new_thread(openmp_threads) + 1)  # unlike the default of a new thread
    try:
        assert in_a_new_thread(openmp_threads_of_a_pass) == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def test_the_twin_of_a_twin_is_itself():
    with inference(nn.Linear(2, 2)) as model, inference(model) as again:
        assert again is model


def test_parameters_are_shared_until_they_are_copied_and_tied_ones_stay_tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    twin = Twin(model).model
    assert twin[0].weight is model[0].weight
    copy_parameters(twin, [twin[0]])
    assert twin[0].weight is twin[2].weight
    assert twin[0].weight is not model[0].weight
    assert twin[2].bias is model[2].bias
    assert torch.equal(twin[0].weight, model[0].weight)
