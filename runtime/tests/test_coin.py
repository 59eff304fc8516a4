import numpy as np
import pytest

from suffice_runtime.coin import hash_to_unit, redraw, without_padding

MASK = (1 << 64) - 1


def mixed(z):
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def reference(leaves):
    """Compute the coin of one example on Python's integers; its leaves are lists of signed words."""
    total = None
    for position, words in enumerate(leaves):
        hashed = sum(word * (mixed(i + (position << 40)) | 1) for i, word in enumerate(words))
        total = mixed((hashed + (total or 0)) & MASK)
    return (total >> 11) / 2**53


def test_the_coin_is_that_of_integers_without_a_bound():
    numbers = np.array([[1, 2, -3, 2**63 - 1, -(2**63)], [0] * 5])
    small = np.array([[255, 0], [1, 128]], dtype=np.uint8)
    floats = np.array([[1.5, -0.0, 1e-45]] * 2, dtype=np.float32)
    words = floats.view(np.int32)
    for leaves in ([numbers], [small], [numbers, small, floats]):
        whole = [words if leaf is floats else leaf for leaf in leaves]
        expected = [reference([[int(word) for word in leaf[i]] for leaf in whole]) for i in range(2)]
        assert hash_to_unit(leaves).tolist() == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int64, np.bool_, np.complex64])
def test_an_example_has_the_same_coin_in_any_batch_order_and_layout(dtype):
    x = (100 * np.random.default_rng(0).normal(size=(40, 5, 3))).astype(dtype)
    coin, order = hash_to_unit([x]), np.random.default_rng(1).permutation(40)
    assert hash_to_unit([x[order]]).tolist() == coin[order].tolist()
    assert hash_to_unit([np.asfortranarray(x)]).tolist() == coin.tolist()
    assert len(set(coin)) == (40 if dtype != np.bool_ else len({row.tobytes() for row in x}))


def test_a_second_coin_is_not_correlated_with_the_first():
    coin = hash_to_unit([np.arange(20_000)[:, None]])
    again = redraw(coin)
    assert ((again >= 0) & (again < 1)).all()
    # Standard error of the correlation of independent numbers: 1/√20,000.
    assert abs(np.corrcoef(coin, again)[0, 1]) < 5 / np.sqrt(20_000)
    assert abs(again.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 20_000)


def test_padding_is_moved_behind_the_tokens_and_replaced_by_zeros():
    ids = np.array([[9, 1, 9, 2], [3, 4, 5, 6]])
    vectors = np.stack([ids, -ids], axis=2).astype(np.float32)
    whole = np.array([[7.0], [8.0]])
    mask = np.array([[0, 1, 0, 3], [1, 1, 1, 1]])
    packed = without_padding([ids, vectors, whole, mask], 3)
    assert packed[0].tolist() == [[1, 2, 0, 0], [3, 4, 5, 6]]
    assert packed[1][0].tolist() == [[1, -1], [2, -2], [0, 0], [0, 0]]
    assert packed[2].tolist() == whole.tolist()
    assert packed[3].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
