import numpy as np

from suffice.data.formats.images import crops


def test_random_crops_stay_inside_and_have_the_expected_areas():
    boxes = [crops._random_box(300, 200, np.random.default_rng(seed)) for seed in range(500)]
    for (left, top, right, bottom), _ in boxes:
        assert 0 <= left < right <= 300.001
        assert 0 <= top < bottom <= 200.001
    areas = [(b[2] - b[0]) * (b[3] - b[1]) / 60_000 for b, _ in boxes]
    assert 0.4 < np.mean(areas) < 0.6
    assert min(areas) > 0.05
    assert 0.4 < np.mean([mirrored for _, mirrored in boxes]) < 0.6
