import torch

from suffice.data.sources import digits


def test_splits_are_disjoint_stratified_and_complete():
    data = digits.load(seed=3)
    sizes = [len(split.labels) for split in (data.train, data.validation, data.test)]
    assert sizes == [797, 400, 600]
    for split in (data.train, data.validation, data.test):
        counts = torch.bincount(split.labels, minlength=10)
        assert counts.min() > 0.9 * len(split.labels) / 10


def test_no_image_is_in_two_splits():
    data = digits.load(seed=3, share=0.0)
    rows = torch.cat([split.images.flatten(1) for split in (data.train, data.validation, data.test)])
    assert len(rows.unique(dim=0)) == len(rows) == 1797


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    a, b, c = digits.load(1), digits.load(1), digits.load(2)
    assert torch.equal(a.test.images, b.test.images)
    assert not torch.equal(a.test.images, c.test.images)


def test_about_the_asked_share_is_perturbed_and_the_rest_is_untouched():
    images = digits.load(0, share=0.0).test.images
    changed = digits.perturb(images, 1 / 3, generator=torch.Generator().manual_seed(0))
    touched = (changed != images).flatten(1).any(1).double().mean()
    assert 0.26 < touched < 0.38  # some shifts are by zero pixels
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_a_shift_moves_the_image_into_black():
    image = torch.rand(1, 1, 8, 8)
    moved = digits.shift(image, torch.tensor([[2, -1]]))
    assert torch.equal(moved[0, 0, 2:, :7], image[0, 0, :6, 1:])
    assert not moved[0, 0, :2].any()
    assert not moved[0, 0, :, 7].any()


def test_each_pass_over_shuffled_batches_is_another_and_covers_the_split():
    split = digits.load(0).train
    loader = split.shuffled(64, generator=torch.Generator().manual_seed(0))
    first, second = list(loader), list(loader)
    assert [len(y) for _, y in first] == [64] * 12 + [29]
    assert not torch.equal(first[0][0], second[0][0])
    assert torch.equal(torch.cat([y for _, y in first]).sort().values, split.labels.sort().values)
