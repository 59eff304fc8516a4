import gzip
import io
import random
import stat
import tarfile
import tracemalloc
import zipfile

import pytest

from suffice.data.store import archives
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
    with pytest.raises(ValueError, match=r"evil.*points outside, refused"):
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
    (member,) = archives.members(archive)  # unpacked from the iterator: exactly one member
    for member in archives.members(archive):
        with pytest.raises(ValueError, match="refused"):
            archives.read_bounded(archives.decompressed(member), 1000, "zeros")


def test_a_tar_in_a_tar_is_read_as_one(tmp_path):
    outer = write_tar(tmp_path / "x.tar", {"in.tar": tar_bytes(FILES), "in2.tar": tar_bytes(FILES)}, "w")
    found = [inner.read() for member in archives.members(outer) for inner in archives.nested_members(member)]
    assert found == [b"1", b"22"] * 2


def test_a_damaged_tar_in_a_tar_is_refused_by_both_names(tmp_path):
    outer = write_tar(tmp_path / "x.tar", {"in.tar": tar_bytes({"a": bytes(5000)})[:1000]}, "w")
    with pytest.raises(ValueError, match=r"damaged .*x.tar/in.tar"):
        [inner.read() for member in archives.members(outer) for inner in archives.nested_members(member)]


def test_a_stream_within_its_bound_is_read_whole():
    assert archives.read_bounded(io.BytesIO(b"1234"), 4, "x") == b"1234"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, b"Z"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("innocent")
        info.type = kind
        tar.addfile(info)
    with pytest.raises(ValueError, match=r"x.tar"):
        [member.read() for member in archives.members(tmp_path / "x.tar")]


def test_folders_in_an_archive_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a", "./b", "a"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("./b/c"))
    assert [member.name for member in archives.members(tmp_path / "x.tar")] == ["b/c"]


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("innocent")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match="got the link innocent in"):
        list(archives.members(tmp_path / "x.zip"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_second_file_of_one_name_is_refused(tmp_path, kind):
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "x", "w") as archive:
            archive.writestr("a/b", "1")
            archive.writestr("a/b", "2")
    else:
        with tarfile.open(tmp_path / "x", "w") as archive:
            archive.addfile(tarfile.TarInfo("a/b"))
            archive.addfile(tarfile.TarInfo("./a/b"))
    with pytest.raises(ValueError, match="expected each file once, got a second 'a/b' in"):
        [member.read() for member in archives.members(tmp_path / "x")]


def changed(path, offset_in_header, value):
    """Write a zip with two bytes changed in the header of its only file, in the entry and in the directory."""
    data = bytearray(path.read_bytes())
    for signature, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        place = data.index(signature) + offset_in_header + shift
        data[place : place + 2] = value.to_bytes(2, "little")
    path.write_bytes(bytes(data))
    return path


def test_an_encrypted_file_and_an_unknown_compression_are_refused_by_name(tmp_path):
    encrypted = changed(write_zip(tmp_path / "x.zip", {"a": b"1"}), 6, 1)
    with pytest.raises(ValueError, match=r"got the encrypted a in .*x.zip; decrypt it first"):
        list(archives.members(encrypted))
    unknown = changed(write_zip(tmp_path / "y.zip", {"a": b"1"}), 8, 97)
    with pytest.raises(ValueError, match=r"truncated or damaged .*y.zip"):
        [member.read() for member in archives.members(unknown)]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("place", [0, 1])
def test_a_header_that_unpacks_to_much_is_refused_before_it_is_read(tmp_path, kind, place):
    size = 200_000_000
    bomb = tarfile.TarInfo("x")
    bomb.type, bomb.size = kind, size
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as out:
        for _ in range(place):
            out.write(tarfile.TarInfo("a").tobuf())
        out.write(bomb.tobuf())
        for _ in range(size // 1_000_000):
            out.write(bytes(1_000_000))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"x.tar.gz"):
        list(archives.members(tmp_path / "x.tar.gz"))
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_truncated_or_changed_archive_of_any_packing_is_refused(tmp_path, mode):
    whole = write_tar(tmp_path / "x", {"a": random.Random(0).randbytes(300_000)}, mode).read_bytes()
    assert [member.read(10**6) for member in archives.members(tmp_path / "x")] != []
    for damaged in (whole[:150_000], whole[:200_000] + b"x" * 50 + whole[200_050:]):
        (tmp_path / "x").write_bytes(damaged)
        with pytest.raises(ValueError, match="truncated"):
            [member.read() for member in archives.members(tmp_path / "x")]


def test_files_are_found_by_their_names_wherever_they_lie(source):
    found = {name: member.read() for name, member in archives.find_members(source, ("one.txt", "two.txt"))}
    assert found == {"one.txt": b"1", "two.txt": b"22"}
    with pytest.raises(ValueError, match=r"expected one.txt, three.txt in .*, found no three.txt"):
        list(archives.find_members(source, ("one.txt", "three.txt")))


def test_a_file_that_also_exists_compressed_is_read_once(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"1"))
    assert [member.name for _, member in archives.find_members(tmp_path, ("a",), packed=True)] == ["a"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.gz").write_bytes(gzip.compress(b"2"))
    with pytest.raises(ValueError, match=r"expected one a in .*, got a and b/a; pass the folder of one"):
        list(archives.find_members(tmp_path, ("a",), packed=True))


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_changed_archives_give_their_files_or_one_kind_of_error(tmp_path, kind):
    files = {f"a/{i}.txt": random.Random(i).randbytes(40) for i in range(5)}
    file = tmp_path / "x"
    write_zip(file, files) if kind == "zip" else write_tar(file, files, "w:gz" if kind == "tar.gz" else "w")
    whole, draw, refused = file.read_bytes(), random.Random(1), 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 2, 10])):
            data[draw.randrange(len(data) if kind != "tar" else 6000)] = draw.randrange(256)
        file.write_bytes(data[: draw.choice([len(data), draw.randrange(len(data))])])
        try:
            found = [member.read(10**6) for member in archives.members(file)]
        except ValueError:
            refused += 1
        else:
            assert sum(map(len, found)) <= 10**6
    assert refused > 100


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_was_cut_between_two_files_or_goes_on_behind_its_end_is_refused(tmp_path, mode):
    whole = tar_bytes({"a": b"1" * 512, "b": b"2" * 512})
    for data, why in ((whole[:2048], "no end marker"), (whole + tar_bytes({"c": b"3"}), "data after its end")):
        (tmp_path / "x").write_bytes(gzip.compress(data) if mode == "w:gz" else data)
        with pytest.raises(ValueError, match=why):
            [member.read() for member in archives.members(tmp_path / "x")]
        outer = write_tar(tmp_path / "outer.tar", {"x.tar": data}, "w")
        with pytest.raises(ValueError, match=why):
            [inner.read() for member in archives.members(outer) for inner in archives.nested_members(member)]
