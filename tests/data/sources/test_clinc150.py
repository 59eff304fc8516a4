import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from suffice.data import import_set, load

IN, OUT = "clinc150", "clinc150-out-of-scope"
PUBLISHED = {
    "train": [["pay my bill", "pay_bill"], ["wake me at six", "alarm"], ["set an alarm", "alarm"]],
    "val": [["an alarm, please", "alarm"]],
    "test": [["what do i owe", "pay_bill"], ["alarm at noon", "alarm"]],
    "oos_train": [["how deep is the sea", "oos"]],
    "oos_val": [["who won", "oos"]],
    "oos_test": [["why is it blue", "oos"], ["is it raining on mars", "oos"]],
}


@pytest.fixture(params=["official file", "its folder", "compact file"])
def source(request, tmp_path):
    if request.param == "compact file":
        rows = [(text, intent, name.removeprefix("oos_")) for name, part in PUBLISHED.items() for text, intent in part]
        texts, intents, parts = zip(*rows, strict=True)
        table = pa.table({"text": texts, "intent": intents, "part": parts, "in_scope": [i != "oos" for i in intents]})
        pq.write_table(table, tmp_path / "clinc150.parquet")
        return tmp_path
    (tmp_path / "data_full.json").write_text(json.dumps(PUBLISHED))
    return tmp_path / "data_full.json" if request.param == "official file" else tmp_path


def test_both_sets_keep_the_published_parts(source):
    assert import_set(IN, source).manifest["parts"] == {"train": 3, "validation": 1, "test": 2}
    assert import_set(OUT, source).manifest["parts"] == {"train": 1, "validation": 1, "test": 2}
    sets, others = load(IN), load(OUT)
    assert sets.classes == ("alarm", "pay_bill")
    assert sets.train.texts == ("pay my bill", "wake me at six", "set an alarm")
    assert sets.train.labels.tolist() == [1, 0, 0]
    assert sets.validation.texts == ("an alarm, please",)
    assert (sets.test.texts, sets.test.labels.dtype) == (("what do i owe", "alarm at noon"), torch.int64)
    assert others.test.texts == ("why is it blue", "is it raining on mars")


def test_an_official_part_is_not_drawn_again(source):
    import_set(IN, source)
    for part in ("validation", "test"):
        with pytest.raises(ValueError, match=f"expected {part}=None for clinc150, which has a {part} part, got 1"):
            load(IN, **{part: 1})


def write(folder, **parts):
    (folder / "data_full.json").write_text(json.dumps({**PUBLISHED, **parts}))
    return folder / "data_full.json"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (["  ", "alarm"], "request 2 in validation of .*: expected a text, got '  '"),
        (["fly me to rome", "book_flight"], "expected an intent of the training part, got 'book_flight'"),
    ],
)
def test_a_request_that_cannot_be_used_is_refused_or_left_out_and_counted(tmp_path, request_, message):
    file = write(tmp_path, val=[["an alarm", "alarm"], request_])
    with pytest.raises(ValueError, match=message):
        import_set(IN, file)
    stored = import_set(IN, file, bad="skip")
    assert stored.manifest["parts"]["validation"] == 1
    assert stored.manifest["skipped"]["count"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": []}, "expected the parts train, oos_train, val, .* got train"),
        ([1], "expected the parts train, .* got list"),
        ({**PUBLISHED, "oos_val": [["a", "b", "c"]]}, r"expected pairs \[text, intent\] in oos_val"),
    ],
)
def test_another_file_is_refused_by_what_it_lacks(tmp_path, content, message):
    (tmp_path / "data_full.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        import_set(IN, tmp_path)


def test_a_part_of_another_name_is_refused(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "intent": ["b"], "part": ["dev"]}), tmp_path / "clinc150.parquet")
    with pytest.raises(ValueError, match=r"row 1 of .*expected a part among train, val, test, got 'dev'"):
        import_set(IN, tmp_path)


def test_a_folder_without_the_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected data_full.json or clinc150.parquet in .*, found neither"):
        import_set(IN, tmp_path)
