import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suffice_runtime.http.codec import compression
from suffice_runtime.http.codec.errors import EncodingError, ProtocolError, TooLargeError

ENCODINGS = ["gzip", "deflate"]
THEIRS = {"gzip": gzip.compress, "deflate": zlib.compress}


def chunked(payload, size):
    return [payload[i : i + size] for i in range(0, len(payload), size)]


@given(st.binary(max_size=3000), st.integers(1, 3000), st.sampled_from(ENCODINGS))
def test_a_body_comes_back_in_any_chunks(payload, size, encoding):
    for compressed in (compression.compress(payload, encoding), THEIRS[encoding](payload)):
        found = compression.decompress(chunked(compressed, size), encoding, len(payload))
        assert b"".join(found) == payload


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bomb_is_refused_after_the_limit(encoding):
    bomb = THEIRS[encoding](bytes(50_000_000))
    assert len(bomb) < 100_000
    with pytest.raises(TooLargeError, match="at most 1,000,000 bytes in a decompressed body"):
        compression.decompress([bomb], encoding, 1_000_000)


@given(st.binary(min_size=1, max_size=500), st.data(), st.sampled_from(ENCODINGS))
def test_a_body_that_is_cut_or_longer_is_refused(payload, data, encoding):
    compressed = THEIRS[encoding](payload)
    cut = data.draw(st.integers(0, len(compressed) - 1))
    for wrong in ([compressed[:cut]], [compressed + b"x"], [compressed, b"x"], [compressed, compressed]):
        with pytest.raises(ProtocolError, match=f"in {encoding}"):
            compression.decompress(wrong, encoding, 10_000)


def test_a_damaged_body_is_refused():
    with pytest.raises(ProtocolError, match="got a damaged one"):
        compression.decompress([b"no gzip at all"], "gzip", 100)


def test_other_encodings_are_refused():
    assert [compression.encoding_of(value) for value in (None, "identity", "GZIP", "deflate")] == [
        None,
        None,
        "gzip",
        "deflate",
    ]
    for value in ("br", "gzip, gzip", "zstd"):
        with pytest.raises(EncodingError, match="expected Content-Encoding as one of gzip, deflate"):
            compression.encoding_of(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0.1, deflate;q=0.5", "deflate"),
        ("*", "gzip"),
        ("identity, gzip;q=0.5", None),
        ("br", None),
        ("gzip;q=x", None),
        ("GZIP", "gzip"),
    ],
)
def test_the_preferred_encoding_is_taken(value, expected):
    assert compression.accepted(value) == expected
