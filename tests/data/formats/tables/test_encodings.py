import codecs

import pytest

from suffice.data.formats.tables import encodings

TEXT = "a,é,猫\n1,ü,🐈\n"
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


def read(file, encoding=None, size=5):
    with encodings.open_text(file, encoding) as stream:
        return b"".join(iter(lambda: stream.read(size), b""))


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("said", [False, True])
@pytest.mark.parametrize("marked", [False, True])
def test_text_is_read_as_utf_8_by_its_mark_or_by_what_is_said(tmp_path, encoding, said, marked):
    (tmp_path / "x").write_bytes((MARKED[encoding] if marked else b"") + TEXT.encode(encoding))
    if said or marked or encoding == "utf-8":
        assert read(tmp_path / "x", encoding if said else None) == TEXT.encode()


def test_a_mark_within_the_text_stays(tmp_path):
    text = "a\ufeff,b\n\ufeffc,d\n"
    for encoding in ("utf-8", "utf-16-le"):
        (tmp_path / "x").write_bytes(text.encode(encoding))
        assert read(tmp_path / "x", encoding) == text.encode()


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp437", "iso8859-15", "mac-roman"])
def test_other_encodings_are_read_where_they_are_stated(tmp_path, encoding):
    (tmp_path / "x").write_bytes("é,ü\r\n".encode(encoding))
    assert read(tmp_path / "x", encoding) == "é,ü\r\n".encode()


@pytest.mark.parametrize(
    ("encoding", "data"),
    [("ascii", b"ok\n\xe9"), ("utf-16-le", b"a\0\n\0a"), ("utf-16", b"\xff\xfe\0\xd8"), ("cp1252", b"\x81")],
)
def test_bytes_that_the_stated_encoding_does_not_have_are_refused(tmp_path, encoding, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match=rf"expected text in {encoding}, got other bytes after line \d of .*x: "):
        read(tmp_path / "x", encoding)


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
def test_a_mark_that_says_otherwise_is_refused(tmp_path, mark):
    (tmp_path / "x").write_bytes(mark + b"a\0")
    with pytest.raises(ValueError, match=r"expected latin-1 according to the schema, got the byte order mark of utf-"):
        read(tmp_path / "x", "latin-1")


@pytest.mark.parametrize("data", [b"\x1f\x8b\x08", b"PK\x03\x04", b"BZh9", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"])
def test_a_packed_file_is_said_to_be_one(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match=r"expected text, got .*x, which is compressed with .*; decompress it first"):
        read(tmp_path / "x")


@pytest.mark.parametrize("encoding", ["utf-9", "rot13", "zlib", "base64", "hex", "", "a\0b", "é"])
def test_what_is_no_encoding_of_text_is_refused(encoding):
    with pytest.raises(ValueError, match="expected an encoding, such as 'latin-1', 'cp1252' or 'utf-16', got"):
        encodings.check(encoding)
    encodings.check("UTF_16LE")
