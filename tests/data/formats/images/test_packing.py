import shutil

import pytest

from suffice.data import import_set, load
from tests.data import miniatures


def test_packed_images_that_lost_their_end_are_refused(tmp_path):
    stored = import_set("pets", miniatures.image_folder(tmp_path / "pets"))
    file = stored.folder / "all.bin"
    shutil.copy(file, tmp_path / "copy")
    file.write_bytes((tmp_path / "copy").read_bytes()[:-100])
    with pytest.raises(ValueError, match="import pets again"):
        load("pets")
