import torch

from suffice.batches import read_labeled
from suffice.data import augment
from suffice.data.splits.images import Images, moments
from tests.builders import identity_network


def split(count=10, **facts):
    pixels = torch.randint(256, (count, 3, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Images(pixels, torch.arange(count), **facts)


def test_batches_are_in_order_scaled_to_one_and_may_be_read_again():
    images = split()
    loader = images.batches(4)
    for _ in range(2):
        seen = list(loader)
        assert [len(y) for _, y in seen] == [4, 4, 2]
        torch.testing.assert_close(torch.cat([x for x, _ in seen]), images.images / 255)
        assert torch.cat([y for _, y in seen]).tolist() == list(range(10))
    assert len(loader) == 3


def test_they_are_standardised_by_the_mean_and_deviation_given():
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    images = split(mean=mean, std=std)
    ((x, _),) = images.batches()
    torch.testing.assert_close(x, (images.images / 255 - mean[:, None, None]) / std[:, None, None])


def test_moments_are_those_of_all_pixels_of_the_split():
    images = split(2500).subset(torch.arange(0, 2500, 2))
    mean, std = moments(images)
    x = images.images.double() / 255
    torch.testing.assert_close(torch.from_numpy(mean), x.mean(dim=(0, 2, 3)).float())
    torch.testing.assert_close(torch.from_numpy(std), x.std(dim=(0, 2, 3), correction=0).float())


def test_a_subset_of_a_subset_has_its_own_images_and_labels():
    images = split().subset(torch.tensor([8, 6, 4, 2])).subset(torch.tensor([3, 0]))
    assert images.labels.tolist() == [2, 8]
    assert torch.equal(images.images, split().images[[2, 8]])
    ((_, labels),) = images.batches()
    assert labels.tolist() == [2, 8]


def test_a_shuffled_pass_covers_the_split_in_another_order_each_time(generator):
    loader = split(100).shuffled(32, generator=generator)
    first, second = (torch.cat([y for _, y in loader]) for _ in range(2))
    assert first.tolist() != second.tolist()
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(100))


def test_images_keep_their_labels_when_shuffled(generator):
    images = split(50).subset(torch.arange(10, 40))
    for x, y in images.shuffled(7, generator=generator):
        torch.testing.assert_close(x, split(50).images[y] / 255)


def test_only_shuffled_batches_are_augmented_and_by_what_is_asked_for(generator):
    images = split(augment=lambda x, *, generator: x * 0)
    assert all((x > 0).any() for x, _ in images.batches(4))
    assert not any((x > 0).any() for x, _ in images.shuffled(4, generator=generator))
    clean = images.shuffled(4, generator=generator, augment=augment.unchanged)
    assert all((x > 0).any() for x, _ in clean)


def test_they_are_loaders_as_the_rest_of_the_library_takes_them():
    pixels, labels = torch.rand(6, 3), torch.arange(6) % 3
    images = Images(pixels[:, :, None, None], labels)
    flat = [(x.flatten(1), y) for x, y in images.batches(4)]
    seen = list(read_labeled(flat, identity_network(3), 3))
    assert torch.cat([batch.inputs for batch, _ in seen]).tolist() == pixels.tolist()
