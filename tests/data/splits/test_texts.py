import pytest
import torch

from suffice.data.splits.texts import Texts, Tokens


def tokens(count, training=False):
    """Make texts of 1 to 9 tokens; the first token is the number of the text plus 1."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 10, (count,), generator=generator).tolist()
    ids = tuple(torch.arange(row + 1, row + 1 + length) for row, length in enumerate(lengths))
    return Tokens(ids, torch.arange(count) % 3, training=training)


def rows(batches):
    return [int(first) - 1 for batch in batches for first in batch["input_ids"][:, 0]]


def test_texts_become_the_ids_of_their_tokens():
    texts = Texts(("a bb", "ccc"), torch.tensor([1, 0]), training=True)
    encoded = texts.encoded(lambda texts: [[len(word) for word in text.split()] for text in texts], padding=9)
    assert [row.tolist() for row in encoded.ids] == [[1, 2], [3]]
    assert encoded.lengths.tolist() == [2, 1]
    (batch,) = encoded.batches(2, shuffle=False)
    assert batch["input_ids"].tolist() == [[1, 2], [3, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert (repr(texts), repr(encoded)) == ("Texts(2)", "Tokens(2 texts of 1.5 tokens)")
    assert texts.subset(torch.tensor([1])).texts == ("ccc",)


@pytest.mark.parametrize("ids", [[[1]], [[1], []]])
def test_a_text_without_tokens_is_refused(ids):
    with pytest.raises(ValueError, match="expected a list of one token id or more for each of 2 texts, got"):
        Texts(("a", "b"), torch.tensor([0, 1])).encoded(lambda texts: ids)


def test_padding_is_masked_and_no_longer_than_needed():
    split = tokens(50)
    for batch in split.batches(8):
        lengths = batch["attention_mask"].sum(dim=1)
        assert lengths.max() == batch["input_ids"].shape[1]
        assert (batch["input_ids"][batch["attention_mask"] == 0] == split.padding).all()
        assert (batch["attention_mask"].diff(dim=1) <= 0).all()


def test_batches_keep_the_order_unless_the_split_is_for_training():
    split = tokens(50)
    assert rows(split.batches(8)) == list(range(50))
    training = tokens(50, training=True)
    first, second = (rows(training.batches(8)) for _ in range(2))
    assert first == second != list(range(50))
    assert sorted(first) == list(range(50))
    assert rows(training.batches(8, shuffle=False)) == list(range(50))
    assert len(split.batches(8)) == len(list(split.batches(8))) == 7


def test_sorted_by_length_batches_need_the_least_padding():
    split = tokens(50).by_length()
    assert (split.lengths.diff() >= 0).all()
    assert torch.equal(split.labels, torch.tensor(rows(split.batches(50))) % 3)


def test_shuffled_batches_hold_each_text_once_in_another_order_each_time_and_little_padding():
    split, generator = tokens(400), torch.Generator().manual_seed(1)
    loader = split.shuffled(8, generator=generator)
    first, second = rows(loader), rows(loader)
    assert sorted(first) == sorted(second) == list(range(400))
    assert first != second
    generator.manual_seed(1)
    assert rows(loader) == first
    padded = sum(batch["input_ids"].numel() for batch in loader) / int(split.lengths.sum())
    unsorted = sum(batch["input_ids"].numel() for batch in split.batches(8, shuffle=True)) / int(split.lengths.sum())
    assert padded - 1 < (unsorted - 1) / 3
