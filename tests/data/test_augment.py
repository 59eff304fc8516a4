import pytest
import torch

from suffice.data import augment


def naive_crop(image, step, padding):
    """Shift one image by one step, pixel by pixel."""
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for i in range(height):
        for j in range(width):
            y, x = i - int(step[0]), j - int(step[1])
            if 0 <= y < height and 0 <= x < width:
                moved[:, i, j] = image[:, y, x]
    assert max(abs(int(s)) for s in step) <= padding
    return moved


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(9, 3, 5, 7), (4, 1, 6, 6)])
def test_each_image_is_moved_by_its_own_step_into_black(dtype, shape, generator):
    images = torch.randint(256, shape, generator=generator).to(dtype)
    steps = torch.randint(-4, 5, (shape[0], 2), generator=generator)
    expected = torch.stack([naive_crop(image, step, 4) for image, step in zip(images, steps, strict=True)])
    assert torch.equal(augment.shift(images, steps, margin=4), expected)


def test_only_the_chosen_images_are_mirrored(generator):
    images = torch.rand(4, 3, 5, 6, generator=generator)
    flipped = augment.flip(images, torch.tensor([True, False, False, True]))
    assert torch.equal(flipped[0], images[0].flip(-1))
    assert torch.equal(flipped[1:3], images[1:3])
    assert torch.equal(flipped[3], images[3].flip(-1))


def test_a_random_crop_reaches_every_step_equally_often(generator):
    images = torch.zeros(20_000, 1, 5, 5)
    images[:, 0, 2, 2] = 1
    cropped = augment.Crop(padding=2)(images, generator=generator)
    share = cropped.mean(dim=0)[0]
    assert (share - 1 / 25).abs().max() < 0.006  # over four standard deviations


def test_half_of_the_images_are_mirrored(generator):
    images = torch.zeros(10_000, 1, 1, 3)
    images[..., 0] = 1
    mirrored = augment.CropFlip(padding=0)(images, generator=generator)[:, 0, 0, 2].mean()
    assert abs(mirrored - 0.5) < 0.02


def test_the_same_seed_gives_the_same_images_and_the_given_ones_stay_as_they_are(generator):
    images = torch.rand(50, 3, 8, 8)
    before = images.clone()
    first, second = (augment.CropFlip()(images, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(images, before)
    assert augment.unchanged(images, generator=generator) is images
