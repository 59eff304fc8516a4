import gzip
import io
import tarfile

import pytest

from suffice.data import archives
from tests.data.miniatures import tar_bytes, write_tar, write_zip

FILES = {"a/one.txt": b"1", "a/two.txt": b"22"}


@pytest.fixture(params=["tar", "tar.gz", "zip", "folder"])
def source(request, tmp_path):
    if request.param == "folder":
        for name, data in FILES.items():
            (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "f" / name).write_bytes(data)
        return tmp_path / "f"
    if request.param == "zip":
        return write_zip(tmp_path / "f.zip", FILES)
    return write_tar(tmp_path / "f", FILES, "w:gz" if request.param == "tar.gz" else "w")


def test_all_kinds_of_archives_and_folders_give_their_files(source):
    found = {member.name: (member.size, member.read()) for member in archives.members(source)}
    assert found == {name: (len(data), data) for name, data in FILES.items()}


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil"])
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_a_path_that_climbs_out_is_refused_by_its_name(tmp_path, name, write):
    archive = write(tmp_path / "x", {name: b"1"})
    with pytest.raises(ValueError, match=r"evil.*climbs out, refused"):
        list(archives.members(archive))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_is_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("innocent")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(ValueError, match="link innocent -> /etc/passwd"):
        list(archives.members(tmp_path / "x.tar"))


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_a_truncated_archive_is_refused(tmp_path, write):
    whole = write(tmp_path / "x", {"a": bytes(range(256)) * 4000}).read_bytes()
    (tmp_path / "x").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated"):
        [member.read() for member in archives.members(tmp_path / "x")]


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="expected a tar or zip archive, got"):
        list(archives.members(tmp_path / "x"))


def test_a_member_that_unpacks_to_more_than_it_may_is_a_bomb(tmp_path):
    bomb = write_zip(tmp_path / "bomb.zip", {"zeros": bytes(10_000_000)})
    assert bomb.stat().st_size < 20_000
    with pytest.raises(ValueError, match=r"at most 1,000,000 bytes.*zeros in .*bomb.zip; refused as a decompression"):
        [member.read(1_000_000) for member in archives.members(bomb)]


def test_a_gzip_inside_is_unpacked_only_as_far_as_it_may(tmp_path):
    archive = write_zip(tmp_path / "x.zip", {"zeros.gz": gzip.compress(bytes(10_000_000))})
    (member,) = archives.members(archive)  # a list: the stream is read while it is open
    for member in archives.members(archive):
        with pytest.raises(ValueError, match="refused"):
            archives.bounded(archives.gunzipped(member), 1000, "zeros")


def test_a_tar_in_a_tar_is_read_as_one(tmp_path):
    outer = write_tar(tmp_path / "x.tar", {"in.tar": tar_bytes(FILES), "in2.tar": tar_bytes(FILES)}, "w")
    found = [inner.read() for member in archives.members(outer) for inner in archives.nested(member)]
    assert found == [b"1", b"22"] * 2


def test_a_damaged_tar_in_a_tar_is_refused_by_both_names(tmp_path):
    outer = write_tar(tmp_path / "x.tar", {"in.tar": tar_bytes({"a": bytes(5000)})[:1000]}, "w")
    with pytest.raises(ValueError, match=r"damaged .*x.tar/in.tar"):
        [inner.read() for member in archives.members(outer) for inner in archives.nested(member)]


def test_a_stream_within_its_bound_is_read_whole():
    assert archives.bounded(io.BytesIO(b"1234"), 4, "x") == b"1234"
