"""Bundles with a tokenizer of a few words."""

import hashlib

import bundles

WORDS = ("[PAD]", "a", "b", "c", "d", "e", "f", "g", "h")
TEXTS = ["a b c", "d", "e f g h a b", "h h"]


def payload():
    """Return the file of a tokenizer that has a token for each of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer.to_str().encode()


def entry(content, **changes):
    """Return the entry of a manifest."""
    described = {"file": "tokenizer.json", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return {**described, "pad_id": 0, "pad_type_id": 0, "side": "right", "longest": 7, **changes}


def write(folder, **changes):
    """Write a bundle with a tokenizer, with other entries of it if given, and return its folder."""
    content = payload()
    bundles.write(folder, tokens=True, tokenizer=entry(content, **changes))
    (folder / "tokenizer.json").write_bytes(content)
    return folder
