import numpy as np
import pytest

from suffice.data.formats import labels


@pytest.mark.parametrize("given", [[0, 2, 1], np.array([0, 2, 1], np.uint8), np.array([0, 2, 1], np.int64)])
def test_whole_numbers_in_range_are_kept(given):
    assert labels.check_range(given, 3, "x").tolist() == [0, 2, 1]
    assert labels.check_count(labels.check_range(given, 3, "x"), 3, "x").tolist() == [0, 2, 1]
    assert labels.check_range([], 3, "x").tolist() == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0, 3, 1], r"expected labels in \[0, 3\), got 3 at position 1 in x"),
        ([0, -1, 7], r"got -1 at position 1 and 1 others in x"),
        ([1, 2, 3], r"got 3 at position 2 in x; they seem to start at 1"),
        ([0.0, 1.0], "expected whole numbers as labels, one for each example, got float64"),
        ([0.0, float("nan")], "got float64"),
        ([True, False], "got bool"),
        (["0", "1"], "got <U1"),
        ([[0, 1]], r"got int64 of shape \(1, 2\)"),
        ([2**70], "got object"),
        (np.int64(3), "of shape"),
        ([2**64 - 1], r"got 18446744073709551615 at position 0"),
    ],
)
def test_others_are_named_with_their_place(given, message):
    with pytest.raises(ValueError, match=message):
        labels.check_range(given, 3, "x")


def test_too_few_labels_are_counted():
    with pytest.raises(ValueError, match="expected a label for each of 4 images, got 3 in x"):
        labels.check_count(np.arange(3), 4, "x")
