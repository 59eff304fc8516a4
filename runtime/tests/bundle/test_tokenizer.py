import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import bundles
from suffice_runtime import Runner, cli
from suffice_runtime.bundle.tokenizer import is_texts
from text_bundles import TEXTS, entry, payload, write

pytest.importorskip("tokenizers")


def test_texts_are_padded_tokens_with_their_mask(tmp_path):
    found = Runner(write(tmp_path / "bundle")).encode(TEXTS)
    assert found["input_ids"].tolist() == [
        [1, 2, 3, 0, 0, 0], [4, 0, 0, 0, 0, 0], [5, 6, 7, 8, 1, 2], [8, 8, 0, 0, 0, 0],
    ]  # fmt: skip
    assert found["attention_mask"].sum(axis=1).tolist() == [3, 1, 6, 2]
    assert {array.dtype for array in found.values()} == {np.dtype("int64")}


def test_padding_is_on_the_left_where_the_network_expects_it(tmp_path):
    found = Runner(write(tmp_path / "bundle", side="left", pad_id=8)).encode(TEXTS[:2])
    assert found["input_ids"].tolist() == [[1, 2, 3], [8, 8, 4]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("texts", [TEXTS, tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object)])
def test_texts_are_answered_as_their_tokens_are(texts, tmp_path):
    runner = Runner(write(tmp_path / "bundle"))
    arrays = runner.encode(TEXTS)
    answer, wanted = runner.run(texts), runner.run(arrays)
    assert answer.probs.tobytes() == wanted.probs.tobytes()
    assert answer.exit.tolist() == wanted.exit.tolist()
    assert answer.macs.tolist() == wanted.macs.tolist()
    for ours, theirs in zip(runner.predict(texts), runner.predict(arrays), strict=True):
        assert ours.probs.tobytes() == theirs.probs.tobytes()
    served = list(runner.run_stream([texts, TEXTS[:1]]))
    assert [len(each.answer) for each in served] == [4, 1]


def test_no_texts_have_an_empty_answer(tmp_path):
    assert len(Runner(write(tmp_path / "bundle")).run([])) == 0


def test_a_text_that_the_network_does_not_take_is_named(tmp_path):
    runner = Runner(write(tmp_path / "bundle"))
    with pytest.raises(ValueError, match=r"expected texts of 1 to 7 tokens, got 8 at position 2; cut it"):
        runner.run(["a", "b", "a a a a a a a a"])
    with pytest.raises(ValueError, match=r"expected texts of 1 to 7 tokens, got 0 at position 1; leave it out"):
        runner.run(["a", ""])
    with pytest.raises(TypeError, match="expected texts as strings, got int"):
        runner.encode(["a", 3])
    bundles.edit(tmp_path / "bundle", lambda manifest: manifest.update(tokens={"least": 1, "most": 2}))
    with pytest.raises(ValueError, match="texts of 1 to 2 tokens, got 3"):
        Runner(tmp_path / "bundle").run(["a b c"])


def test_texts_for_a_bundle_without_a_tokenizer_are_refused(tmp_path):
    runner = Runner(bundles.write(tmp_path / "bundle", tokens=True))
    with pytest.raises(ValueError, match=r"a bundle without a tokenizer, got texts; export it with tokenizer="):
        runner.run(TEXTS)


@pytest.mark.parametrize(("change", "message"), [
    ({"side": "both"}, r"side as one of \['left', 'right'\]"),
    ({"file": "../tokenizer.json"}, r"file as one of \['tokenizer.json'\]"),
    ({"longest": 0}, "longest as a whole number"),
    ({"pad_id": -1}, "pad_id as a whole number"),
])  # fmt: skip
def test_a_wrong_entry_is_refused_by_its_name(change, message, tmp_path):
    with pytest.raises(ValueError, match=f"expected .*{message}"):
        Runner(write(tmp_path / "bundle", **change))


def test_a_tokenizer_for_other_inputs_is_refused(tmp_path):
    bundles.write(tmp_path / "bundle", tokenizer=entry(payload()))
    with pytest.raises(ValueError, match=r"expected inputs among .* beside a tokenizer, got \['input'\]"):
        Runner(tmp_path / "bundle")


@pytest.mark.parametrize(("content", "message"), [
    (None, "expected tokenizer.json in the bundle"),
    (b"{}", "as it was written, got one that was changed"),
])  # fmt: skip
def test_a_missing_or_changed_file_is_refused_at_the_first_text(content, message, tmp_path):
    folder = write(tmp_path / "bundle")
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_bytes(content)
    runner = Runner(folder)
    runner.run(bundles.texts(3, 4))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        runner.run(TEXTS)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    folder = write(tmp_path / "bundle", sha256=hashlib.sha256(b'{"model": 3}').hexdigest())
    (folder / "tokenizer.json").write_bytes(b'{"model": 3}')
    with pytest.raises(ValueError, match=r"expected a tokenizer in tokenizer.json, got something else"):
        Runner(folder).run(TEXTS)


def test_threads_share_a_tokenizer(tmp_path):
    runner = Runner(write(tmp_path / "bundle"))
    wanted = runner.run(TEXTS).probs.tobytes()
    with ThreadPoolExecutor(4) as pool:
        assert all(answer.probs.tobytes() == wanted for answer in pool.map(runner.run, [TEXTS] * 50))


def test_a_file_of_texts_is_answered_line_by_line(tmp_path):
    folder, file, output = write(tmp_path / "bundle"), tmp_path / "x.txt", tmp_path / "a.json"
    file.write_bytes("\ufeff".encode() + b"a b c\r\nd\r\ne f g h a b\nh h")
    command = ["run", str(folder), "--input", str(file), "--output", str(output), "--batch-size", "3"]
    assert cli.main(command) == 0
    found = json.loads(output.read_text())
    assert [row["exit"] for row in found["answers"]] == Runner(folder).run(TEXTS).exit.tolist()


@pytest.mark.parametrize(("content", "message"), [
    (b"a\nb\na\nb\na a a a a a a a\n", "got 8 at position 4"),
    (b"\xff\xfe\x00", "expected texts in UTF-8"),
])  # fmt: skip
def test_a_file_of_texts_that_cannot_be_answered_is_an_error(content, message, tmp_path, capsys):
    folder, file = write(tmp_path / "bundle"), tmp_path / "x.txt"
    file.write_bytes(content)
    command = ["run", str(folder), "--input", str(file), "--output", str(tmp_path / "a.csv"), "--batch-size", "2"]
    assert cli.main(command) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()


def test_texts_are_told_from_arrays():
    assert is_texts(["a"])
    assert is_texts([])
    assert is_texts(np.array(["a"]))
    assert not is_texts([1, 2])
    assert not is_texts("a text")
    assert not is_texts(np.zeros(3))
    assert not is_texts({"input_ids": np.zeros(3)})
