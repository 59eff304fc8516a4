import pytest

from suffice.data.formats.tables import headers


def test_columns_that_are_there_once_are_fine_whatever_the_others():
    headers.check(["a", "b", "b", ""], ["a", ""], "x")


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        (["a"], ["b"], r"expected the columns 'b', found no 'b' in x, which has 'a'$"),
        (["price", "city"], ["prize"], r"nearest: 'price'$"),
        ([" Age "], ["age"], r"nearest: ' Age '$"),
        (["a;b;c"], ["a", "c"], r"it is delimited by semicolons: set delimiter = ';' in the schema$"),
        (['"a"\t"b"'], ["a", "b"], r"delimited by tabs: set delimiter = '\\t'"),
        (["a", "a"], ["a"], r"expected one column 'a', got 2 in x; rename them"),
        ([str(i) for i in range(1000)], ["x"], r"and 980 more$"),
        (["y" * 10_000], ["x" * 10_000], r"^.{0,400}$"),
        (["\x1b[31m"], ["a"], r"which has '\\x1b\[31m'"),
    ],
)
def test_others_are_named_with_what_may_have_been_meant(found, wanted, message):
    with pytest.raises(ValueError, match=message):
        headers.check(found, wanted, "x")
