import numpy as np
import pytest
import torch
from PIL import Image

from suffice.data import ood
from suffice.data.sources import catalog
from suffice.data.splits.images import Images


def split(shape, seed=0, **facts):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(shape[0]), **facts)


@pytest.mark.parametrize("inside", [(4, 3, 32, 32), (4, 1, 28, 28)])
@pytest.mark.parametrize("outside", [(7, 3, 64, 64), (7, 1, 28, 28), (7, 3, 32, 32)])
def test_strangers_take_the_size_channels_and_scale_of_the_split(inside, outside):
    mean = torch.full((inside[1],), 0.4)
    home = split(inside, mean=mean, std=mean)
    fitted = ood.match_format(split(outside, seed=1), home)
    assert fitted.images.shape == (7, *inside[1:])
    assert fitted.images.dtype == torch.uint8
    assert fitted.mean is mean
    assert fitted.labels.tolist() == list(range(7))


def test_resizing_is_that_of_pillow_and_grey_its_luma():
    outside = split((3, 3, 64, 64), seed=1)
    coloured = ood.match_format(outside, split((1, 3, 32, 32)))
    grey = ood.match_format(outside, split((1, 1, 64, 64)))
    for image, small, flat in zip(outside.images, coloured.images, grey.images, strict=True):
        opened = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = np.asarray(opened.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert np.abs(small.numpy().astype(int) - expected).max() <= 1
        assert np.abs(flat[0].numpy().astype(int) - np.asarray(opened.convert("L"))).max() <= 1


def test_strangers_of_the_same_form_stay_as_they_are():
    outside = split((5, 3, 32, 32), seed=1).subset(torch.tensor([3, 1]))
    fitted = ood.match_format(outside, split((2, 3, 32, 32)))
    assert torch.equal(fitted.images, outside.images)
    assert fitted.labels.tolist() == [3, 1]


def test_what_cannot_be_made_to_fit_is_refused():
    with pytest.raises(ValueError, match=r"1 or 3 channels, got torch.float32 \(2, 1, 4, 4\)"):
        ood.match_format(Images(torch.rand(2, 1, 4, 4), torch.zeros(2)), split((2, 3, 32, 32)))


@pytest.mark.parametrize("kind", ood.SYNTHETIC)
def test_synthetic_strangers_are_as_many_seeded_and_of_no_class(kind):
    inside = split((20, 3, 8, 8)).subset(torch.arange(5, 17))
    a, b = (ood.synthetic(inside, kind, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a.images, b.images)
    assert a.images.shape == (12, 3, 8, 8)
    assert a.labels.tolist() == [-1] * 12
    assert not torch.equal(a.images, inside.images)
    assert len(a.images.flatten(1).unique(dim=0)) == 12


def test_scrambled_images_keep_their_pixels_and_constant_ones_have_one_colour(generator):
    inside = split((6, 3, 8, 8))
    scrambled = ood.synthetic(inside, "scrambled", generator=generator).images
    for before, after in zip(inside.images, scrambled, strict=True):
        assert sorted(map(tuple, before.flatten(1).T.tolist())) == sorted(map(tuple, after.flatten(1).T.tolist()))
    constant = ood.synthetic(inside, "constant", generator=generator).images
    assert torch.equal(constant, constant[:, :, :1, :1].expand(-1, -1, 8, 8))
    with pytest.raises(ValueError, match="expected one of noise, constant, scrambled, got 'x'"):
        ood.synthetic(inside, "x", generator=generator)


def test_pairs_are_of_sets_that_there_are():
    for inside, outside in ood.PAIRS.items():
        assert {inside, *outside} <= set(catalog.ENTRIES)
        assert inside not in outside
