import hashlib
import json
import os

import pytest
import torch

import suffice
from suffice.data.sources import digits
from suffice.data.store import lookup
from suffice.data.store.writer import create_dataset
from suffice.storage import artifact, filesystem, manifests
from suffice.utils.progress import quiet
from tests import builders

pytestmark = pytest.mark.filterwarnings("ignore:the (prior precision|temperature) of exit")


@pytest.fixture(scope="module")
def data():
    return digits.load(seed=0)


@pytest.fixture(scope="module")
def calibrated(data):
    torch.manual_seed(0)
    network = suffice.models.convnet(num_classes=10, widths=(4, 8))
    generator = torch.Generator().manual_seed(0)
    loaders = data.train.batches(), data.validation.batches()
    return suffice.calibrate(network, *loaders, generator=generator, **builders.PAPER)


@pytest.fixture(scope="module")
def policy(calibrated, data):
    return suffice.allocate(calibrated, data.validation.batches(), budget=0.6)


def test_a_reloaded_network_gives_the_same_bytes(calibrated, data, tmp_path):
    suffice.save(calibrated, tmp_path / "c")
    again = suffice.load(tmp_path / "c", network=calibrated.network)
    for before, after in zip(calibrated(data.test.images), again(data.test.images), strict=True):
        assert torch.equal(before.log_probs, after.log_probs)
        assert torch.equal(before.aleatoric, after.aleatoric)
    assert again.costs == calibrated.costs


def test_a_reloaded_exit_can_still_change_its_prior(calibrated, data, tmp_path):
    suffice.save(calibrated, tmp_path / "c")
    again = suffice.load(tmp_path / "c", network=calibrated.network)
    before, after = calibrated.exits[0].with_prior(2.0), again.exits[0].with_prior(2.0)
    torch.testing.assert_close(before.offsets.values, after.offsets.values)


def test_a_network_without_posterior_or_ensemble_can_be_saved(calibrated, data, tmp_path):
    plain = suffice.calibrate(calibrated.network, None, data.validation.batches(), structure=None, ensemble=False)
    suffice.save(plain, tmp_path / "p")
    again = suffice.load(tmp_path / "p", network=calibrated.network)
    assert [e.temperature for e in again.exits] == [e.temperature for e in plain.exits]
    assert not again.ensemble


def test_a_reloaded_policy_stops_the_same_examples_at_the_same_exits(calibrated, policy, data, tmp_path):
    suffice.save(policy, tmp_path / "p")
    again = suffice.load(tmp_path / "p")
    before = suffice.run(calibrated, policy, data.test.images)
    after = suffice.run(calibrated, again, data.test.images)
    assert torch.equal(before.exit, after.exit)
    assert (again.budget, again.expected) == (policy.budget, policy.expected)


def test_the_network_may_be_given_as_a_function_that_builds_it(calibrated, tmp_path):
    suffice.save(calibrated, tmp_path / "c")
    assert suffice.load(tmp_path / "c", network=lambda: calibrated.network).network is calibrated.network


def test_saving_again_replaces_the_artifact_and_leaves_nothing_beside_it(calibrated, policy, tmp_path):
    suffice.save(calibrated, tmp_path / "a")
    suffice.save(policy, tmp_path / "a")
    assert isinstance(suffice.load(tmp_path / "a"), suffice.Policy)
    assert os.listdir(tmp_path) == ["a"]


def test_parts_are_read_only_as_their_own_kind(policy, tmp_path):
    suffice.save(policy, tmp_path / "p")
    assert type(policy).from_parts(artifact.read(tmp_path / "p", "policy"), None).expected == policy.expected
    with pytest.raises(ValueError, match="expected what to be"):
        artifact.read(tmp_path / "p", "calibrated")


def test_other_weights_are_an_error_that_names_both_hashes(calibrated, tmp_path):
    suffice.save(calibrated, tmp_path / "c")
    other = suffice.models.convnet(num_classes=10, widths=(4, 8))
    with pytest.raises(ValueError, match=rf"{calibrated.network_hash[:12]}.*got [0-9a-f]{{12}}"):
        suffice.load(tmp_path / "c", network=other)


def test_the_error_for_a_missing_network_names_the_argument(calibrated, tmp_path):
    suffice.save(calibrated, tmp_path / "c")
    with pytest.raises(TypeError, match="network="):
        suffice.load(tmp_path / "c")


def test_a_truncated_tensor_file_is_refused(calibrated, tmp_path):
    suffice.save(calibrated, tmp_path / "c")
    file = tmp_path / "c" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated or was changed"):
        suffice.load(tmp_path / "c", network=calibrated.network)


def test_a_missing_tensor_file_is_refused(policy, tmp_path):
    suffice.save(policy, tmp_path / "p")
    (tmp_path / "p" / "tensors.safetensors").unlink()
    with pytest.raises(ValueError, match=r"tensors.safetensors, found none; the artifact is damaged"):
        suffice.load(tmp_path / "p")


def test_an_edited_manifest_is_refused(policy, tmp_path):
    suffice.save(policy, tmp_path / "p")
    file = tmp_path / "p" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["configuration"]["score"] = "entropy"
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="was changed"):
        suffice.load(tmp_path / "p")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"x"'])
def test_a_damaged_manifest_is_refused(policy, tmp_path, text):
    suffice.save(policy, tmp_path / "p")
    (tmp_path / "p" / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="damaged"):
        suffice.load(tmp_path / "p")


def test_another_format_is_refused_by_its_number(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(artifact, "FORMAT", 99)
    suffice.save(policy, tmp_path / "p")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="expected format 1, got format 99"):
        suffice.load(tmp_path / "p")


@pytest.mark.parametrize("value", [None, 0, "", "polcy", "training", ["policy"], {"made_for": 1}, ...])
@pytest.mark.parametrize("field", ["what", "tensors_sha256", "configuration", "format"])
def test_wrong_fields_under_a_right_digest_are_refused_by_name(policy, tmp_path, field, value):
    suffice.save(policy, tmp_path / "p")
    manifest = json.loads((tmp_path / "p" / "manifest.json").read_text())
    del manifest["manifest_sha256"], manifest[field]
    manifests.write_manifest(tmp_path / "p", manifest if value is ... else {**manifest, field: value})
    names = {"tensors_sha256": "tensors", "configuration": "configuration|made_for|portion|shares|promise"}
    with pytest.raises(ValueError, match=f"expected.*({names.get(field, field)})"):
        suffice.load(tmp_path / "p")


@pytest.mark.parametrize("payload", [b"", b"x" * 7, b"\xff" * 16, b"\x02" + 7 * b"\0" + b"{}" + b"junk"])
def test_unreadable_tensors_under_a_right_digest_are_refused(policy, tmp_path, payload):
    suffice.save(policy, tmp_path / "p")
    manifest = json.loads((tmp_path / "p" / "manifest.json").read_text())
    (tmp_path / "p" / "tensors.safetensors").write_bytes(payload)
    manifest["tensors_sha256"] = hashlib.sha256(payload).hexdigest()
    del manifest["manifest_sha256"]
    manifests.write_manifest(tmp_path / "p", manifest)
    with pytest.raises(ValueError, match=r"expected tensors in the safetensors format, got a damaged .*safetensors"):
        suffice.load(tmp_path / "p")


def test_an_artifact_has_the_permissions_of_a_new_folder(policy, tmp_path):
    for _ in range(2):  # a new one, and one that replaces an old one
        suffice.save(policy, tmp_path / "p")
        (tmp_path / "other").mkdir(exist_ok=True)
        assert (tmp_path / "p").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_failed_write_leaves_the_old_artifact_and_no_half_written_folder(policy, tmp_path, monkeypatch):
    suffice.save(policy, tmp_path / "p")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(filesystem, "sync_tree", full)
    with pytest.raises(OSError, match="no space"):
        suffice.save(policy, tmp_path / "p")
    assert os.listdir(tmp_path) == ["p"]
    assert suffice.load(tmp_path / "p").budget == policy.budget


def test_without_exchange_a_failed_rename_restores_the_old_artifact(policy, calibrated, tmp_path, monkeypatch):
    suffice.save(policy, tmp_path / "p")
    rename = os.rename

    def fail_into_place(source, target):
        if target == tmp_path / "p" and not source.name.endswith("-old"):
            raise OSError("interrupted")
        return rename(source, target)

    monkeypatch.setattr(filesystem, "exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", fail_into_place)
    with pytest.raises(OSError, match="interrupted"):
        suffice.save(calibrated, tmp_path / "p")
    assert os.listdir(tmp_path) == ["p"]
    assert isinstance(suffice.load(tmp_path / "p"), suffice.Policy)


def test_a_folder_of_something_else_that_has_a_manifest_is_not_overwritten(policy, tmp_path):
    (tmp_path / "extension" / "src").mkdir(parents=True)
    (tmp_path / "extension" / "manifest.json").write_text('{"manifest_version": 3}')
    (tmp_path / "extension" / "src" / "main.js").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"whose manifest is not one that suffice\.save wrote"):
        suffice.save(policy, tmp_path / "extension")
    assert (tmp_path / "extension" / "src" / "main.js").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["extension"]


def test_an_artifact_with_files_of_the_user_in_it_is_not_replaced(policy, tmp_path):
    suffice.save(policy, tmp_path / "p")
    (tmp_path / "p" / "weights.safetensors").write_text("mine")
    with pytest.raises(FileExistsError, match=r"got also weights\.safetensors; move that away, or choose another path"):
        suffice.save(policy, tmp_path / "p")
    assert (tmp_path / "p" / "weights.safetensors").read_text() == "mine"
    assert suffice.load(tmp_path / "p").budget == policy.budget


def test_a_data_set_is_not_replaced_by_an_artifact(policy, tmp_path, monkeypatch):
    monkeypatch.setenv("SUFFICE_DATA", str(tmp_path))
    with create_dataset("things", quiet) as writer:
        writer.save("a", [1, 2], "int64")
    with pytest.raises(FileExistsError, match="expected a new path or an artifact to replace"):
        suffice.save(policy, tmp_path / "things")
    assert lookup.find("things").array("a").tolist() == [1, 2]


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"torn")])
def test_an_artifact_whose_tensors_are_damaged_is_replaced(policy, tmp_path, damage):
    suffice.save(policy, tmp_path / "p")
    damage(tmp_path / "p" / "tensors.safetensors")
    suffice.save(policy, tmp_path / "p")
    assert suffice.load(tmp_path / "p").budget == policy.budget


def test_a_save_through_a_link_replaces_its_destination(policy, calibrated, tmp_path):
    suffice.save(policy, tmp_path / "run-17")
    (tmp_path / "latest").symlink_to("run-17")
    suffice.save(calibrated, tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert suffice.load(tmp_path / "run-17", network=calibrated.network).costs == calibrated.costs
    assert sorted(os.listdir(tmp_path)) == ["latest", "run-17"]


@pytest.mark.parametrize("name", ["manifest.json", "tensors.safetensors"])
def test_a_fifo_in_an_artifact_is_refused_by_name_without_blocking(policy, tmp_path, name):
    suffice.save(policy, tmp_path / "p")
    (tmp_path / "p" / name).unlink()
    os.mkfifo(tmp_path / "p" / name)
    with pytest.raises(ValueError, match=f"expected a file, got a FIFO at .*{name}"):
        suffice.load(tmp_path / "p")
    with pytest.raises(FileExistsError):
        suffice.save(policy, tmp_path / "p")


def test_loading_a_path_that_is_not_a_folder_names_it(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("unmounted")
    with pytest.raises(FileNotFoundError, match=r"found none at the file .*/file"):
        suffice.load(tmp_path / "file")
    with pytest.raises(
        FileNotFoundError, match=r"found none at the link .*/link, which points to unmounted, which does not"
    ):
        suffice.load(tmp_path / "link")


def test_a_folder_of_something_else_is_not_overwritten(policy, tmp_path):
    (tmp_path / "precious").write_text("data")
    with pytest.raises(FileExistsError, match="choose another path"):
        suffice.save(policy, tmp_path)
    assert (tmp_path / "precious").read_text() == "data"


def test_the_error_for_a_missing_artifact_names_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        suffice.load(tmp_path / "nowhere")


def test_a_policy_with_a_function_as_score_cannot_be_saved(calibrated, data, tmp_path):
    policy = suffice.allocate(calibrated, data.validation.batches(), 0.6, score=lambda p, state: p.confidence)
    with pytest.raises(ValueError, match="score with a name"):
        suffice.save(policy, tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_objects_of_other_classes_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match="Calibrated"):
        suffice.save({"a": 1}, tmp_path / "x")


def test_tensors_that_share_memory_are_saved_each_on_its_own(tmp_path):
    whole = torch.arange(6.0)
    tensors = {"whole": whole, "same": whole, "part": whole[2:], "turned": whole.view(2, 3).T, "none": whole[:0]}
    artifact.write(tmp_path / "a", "calibrated", {}, tensors)
    parts = artifact.read(tmp_path / "a", "calibrated")
    for name, tensor in tensors.items():
        assert torch.equal(parts.tensor_like(name, tensor), tensor)


@pytest.mark.parametrize(
    ("value", "got"), [(torch.eye(2).to_sparse(), r"a torch\.sparse_coo one"), ({"version": 3}, "dict")]
)
def test_values_that_are_no_dense_tensors_are_refused_by_name(value, got, tmp_path):
    with pytest.raises(TypeError, match=f"expected dense tensors to save, got {got} as buffer"):
        artifact.write(tmp_path / "a", "calibrated", {}, {"buffer": value})
    assert not (tmp_path / "a").exists()


def test_a_calibration_in_double_precision_with_precisions_of_classes_is_saved(tmp_path):
    network, x = builders.network(widths=(6, 5), classes=4).double(), builders.inputs(60)
    loader = [(x, torch.arange(60) % 4)]
    relative = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    calibrated = suffice.calibrate(network, loader, None, tuning="evidence", class_precision=relative)
    suffice.save(calibrated, tmp_path / "c")
    again = suffice.load(tmp_path / "c", network=network)
    assert [exit_.class_precision for exit_ in again.exits] == [relative.tolist()] * 2
    assert torch.equal(again(x)[-1].log_probs, calibrated(x)[-1].log_probs)
