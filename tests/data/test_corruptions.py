import colorsys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from suffice.data.corruptions import KINDS, corrupt, corrupt_split
from suffice.data.splits.images import Images


@pytest.fixture
def images(generator):
    return torch.rand(6, 3, 16, 16, generator=generator)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_corruption_does_more_harm_the_stronger_it_is_and_keeps_type_and_range(kind, dtype):
    smooth = torch.linspace(0, 1, 16).expand(6, 3, 16, 16) * torch.linspace(0.2, 0.8, 6)[:, None, None, None]
    given = (smooth * 255).to(dtype) if dtype == torch.uint8 else smooth.clone()
    before = given.clone()
    harm = []
    for strength in range(1, 6):
        changed = corrupt(given, kind, strength, generator=seeded())
        assert changed.shape == given.shape
        assert changed.dtype == dtype
        harm.append(float((changed.float() - given.float()).abs().mean()))
    assert harm[0] > 0
    assert harm == sorted(harm)
    assert torch.equal(given, before)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_seed_gives_the_same_images(kind, images):
    a, b, c = (corrupt(images, kind, 3, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert torch.equal(a, c) == (kind in ("blur", "contrast", "brightness"))


def test_noise_has_the_published_deviation():
    grey = torch.full((20, 3, 32, 32), 0.5)
    for strength, deviation in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), start=1):
        noise = corrupt(grey, "noise", strength, generator=seeded()) - grey
        assert abs(float(noise.std()) / deviation - 1) < 0.02
        assert abs(float(noise.mean())) < 0.002


def test_impulses_hit_the_published_share_with_salt_and_pepper_alike():
    grey = torch.full((40, 3, 32, 32), 0.5)
    for strength, share in enumerate((0.01, 0.02, 0.03, 0.05, 0.07), start=1):
        hit = corrupt(grey, "impulse", strength, generator=seeded())
        assert abs(float((hit == 1).double().mean()) / (share / 2) - 1) < 0.15
        assert abs(float((hit == 0).double().mean()) / (share / 2) - 1) < 0.15
        assert ((hit == 0) | (hit == 0.5) | (hit == 1)).all()


@pytest.mark.parametrize("strength", range(1, 6))
def test_blur_is_that_of_scipy(images, strength):
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[strength - 1]
    expected = gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4)
    torch.testing.assert_close(
        corrupt(images, "blur", strength, generator=seeded()), torch.from_numpy(expected).float(), atol=1e-5, rtol=0
    )


def test_contrast_keeps_the_mean_of_each_channel(images):
    low = corrupt(images, "contrast", 5, generator=seeded())
    torch.testing.assert_close(low.mean(dim=(2, 3)), images.mean(dim=(2, 3)))
    torch.testing.assert_close(low.std(dim=(2, 3)), 0.15 * images.std(dim=(2, 3)))


def test_brightness_raises_the_value_of_hue_saturation_value(images):
    images[0, :, 0, 0] = 0
    bright = corrupt(images, "brightness", 4, generator=seeded())
    for place in np.ndindex(2, 16, 16):
        before, after = (x[place[0], :, place[1], place[2]].tolist() for x in (images, bright))
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        np.testing.assert_allclose(after, colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1)), atol=1e-5)


def test_a_shift_moves_every_image_by_a_sixteenth_of_its_side_a_step():
    images = torch.zeros(200, 1, 32, 32)
    images[:, 0, 16, 16] = 1
    for strength in range(1, 6):
        moved = corrupt(images, "shift", strength, generator=seeded())
        by = 2 * strength
        expected = {(16 - by, 16), (16 + by, 16), (16, 16 - by), (16, 16 + by)}
        assert {(int(y), int(x)) for _, _, y, x in moved.nonzero()} == expected


def test_a_split_is_corrupted_before_it_is_standardised(generator):
    pixels = torch.randint(256, (2500, 1, 4, 4), generator=generator, dtype=torch.uint8)
    split = Images(pixels, torch.arange(2500), mean=torch.tensor([0.5]), std=torch.tensor([0.25]))
    part = split.subset(torch.arange(1000, 2200))
    worse = corrupt_split(part, "noise", 5, generator=seeded())
    assert torch.equal(worse.labels, part.labels)
    assert torch.equal(worse.images, corrupt(part.images, "noise", 5, generator=seeded()))
    ((x, _),) = worse.batches(5000)
    torch.testing.assert_close(x, (worse.images / 255 - 0.5) / 0.25)


def test_unknown_kinds_and_strengths_and_standardized_pixels_are_refused(images):
    for kind, strength in (("fog", 1), ("noise", 0), ("noise", 6)):
        with pytest.raises(ValueError, match=r"expected one of noise, impulse, .* at strength 1 to 5, got"):
            corrupt(images, kind, strength, generator=seeded())
    with pytest.raises(ValueError, match="corrupt before standardizing"):
        corrupt(images - 0.5, "noise", 1, generator=seeded())
