import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suffice.data.splits import assignment
from suffice.data.splits.assignment import TEST, TRAIN, VALIDATION

LABELS = np.repeat(np.arange(7), [10, 20, 30, 40, 50, 60, 90])


def test_every_class_is_cut_in_the_same_proportions():
    split = assignment.random_split(LABELS, 300, 30, 60, seed=0)
    for which, share in ((TRAIN, 0.7), (VALIDATION, 0.1), (TEST, 0.2)):
        counts = np.bincount(LABELS[split == which], minlength=7)
        assert (np.abs(counts - share * np.bincount(LABELS)) <= 1).all()


@given(
    st.lists(st.integers(0, 5), min_size=5, max_size=60),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
    st.integers(0, 2**31),
)
def test_sizes_are_exact_and_quotas_within_one_of_the_share(labels, validation, test, seed):
    array = np.array(labels)
    split = assignment.random_split(array, len(array), validation, test, seed)
    assert (split == TEST).sum() == round(len(array) * test)
    assert (split == VALIDATION).sum() == round(len(array) * validation)
    share = (split == TEST).mean()
    for label in set(labels):
        mine = array == label
        assert abs((split[mine] == TEST).sum() - share * mine.sum()) < 1 + 1e-9


def test_rows_left_over_go_to_the_classes_with_the_largest_remainders():
    labels = np.repeat([0, 1, 2], [10, 3, 7])  # shares of 4 of 20: 2, 0.6 and 1.4
    for seed in range(20):
        split = assignment.random_split(labels, 20, 0, 4, seed)
        assert np.bincount(labels[split == TEST]).tolist() == [2, 1, 1]


def test_a_seed_gives_the_same_split_and_another_one_another():
    a, b, c = (assignment.random_split(LABELS, 300, 0.2, 0.2, seed) for seed in (1, 1, 2))
    assert (a == b).all()
    assert (a != c).any()


def test_every_row_of_a_class_is_equally_likely():
    drawn = sum(assignment.random_split(LABELS, 300, 0, 60, seed) == TEST for seed in range(300)) / 300
    assert np.abs(drawn - 0.2).max() < 0.1  # more than four standard deviations


def test_without_labels_it_is_a_plain_draw():
    split = assignment.random_split(None, 50, 5, 10, seed=0)
    assert np.bincount(split).tolist() == [35, 5, 10]


def test_rows_in_order_of_time_are_cut_at_the_end():
    assert assignment.time_ordered_split(7, 2, 1).tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert assignment.time_ordered_split(3, 0, 0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("sizes", [(5, 5), (0.5, 0.5), (11, 0), (-1, 0)])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(sizes):
    with pytest.raises(ValueError, match="expected fewer than 10 rows to be held out, got"):
        assignment.random_split(None, 10, *sizes, seed=0)
