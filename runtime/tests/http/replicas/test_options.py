"""Options of the application, without a running Ray."""

import json
from types import SimpleNamespace

import pytest

import bundles
from suffice_runtime import cli
from suffice_runtime.http.ray import application
from suffice_runtime.http.ray.publishing import Publisher
from suffice_runtime.http.ray.replica import Replica
from suffice_runtime.http.service import Service
from suffice_runtime.serving.engine import Engine
from suffice_runtime.serving.models import Models

FIRST = {**bundles.POLICY, "thresholds": ["-inf", "-inf"], "shares": [1.0, 0.0, 0.0]}


@pytest.fixture
def engine(opened):
    engine = Engine(opened(), name="net")
    yield engine
    engine.close(20)


@pytest.fixture
def replica(engine):
    found = Replica()
    found.app = SimpleNamespace(state=SimpleNamespace(service=Service(Models([engine]), is_replica=True)))
    return found


def deployed(written, *options):
    return application.deployment(application.parse(["serve", str(written()), "--ray", *options]))


def test_limits_are_those_of_the_options(written):
    found = deployed(written, "--replicas", "3", "--max-requests", "50", "--workers", "2", "--threads", "3")
    assert (found.num_replicas, found.max_ongoing_requests, found.max_queued_requests) == (3, 50, 50)
    assert found.ray_actor_options["num_cpus"] == 6
    assert found.user_config == {"policies": {}}


def test_replicas_follow_the_load_up_to_the_greatest_number(written):
    scaled = deployed(written, "--replicas", "2", "--max-replicas", "5")._deployment_config.autoscaling_config
    assert (scaled.min_replicas, scaled.max_replicas, scaled.target_ongoing_requests) == (2, 5, 32)


def test_options_of_a_configuration_are_those_of_the_command(written, tmp_path):
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(FIRST))
    options = {"bundle": [written()], "name": "net", "max_batch": 8, "track": False, "audit-share": 0, "policy": file}
    built = application.build(options)._bound_deployment
    assert built.user_config == {"policies": {"net/1": FIRST}}


WRONG = {
    "not known": ({"speed": 3}, "unrecognized arguments: --speed 3"),
    "out of range": ({"max-batch": 0}, "expected a whole number of at least 1, got '0'"),
    "of the proxy": ({"port": 80}, "expected options of a deployment, got port"),
    "a state": ({"state": "folder"}, "expected no --state with --ray"),
    "fewer at most": ({"replicas": 3, "max-replicas": 2}, "expected --max-replicas of at least 3, got 2"),
    "a token": ({"token": "secret"}, "unrecognized arguments: --token"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_refused_where_the_application_is_built(written, options, message):
    with pytest.raises(ValueError, match=message):
        application.build({"bundle": written(), **options})


def test_a_policy_that_is_not_one_for_the_bundle_is_refused_where_the_application_is_built(written, tmp_path, capsys):
    file = tmp_path / "policy.json"
    for text in (json.dumps({**FIRST, "score": "margin"}), "[]", "{"):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"expected a policy in .*policy\.json"):
            deployed(written, "--policy", str(file))
    with pytest.raises(ValueError, match="expected one bundle with --policy, got 2"):
        application.build({"bundle": [written(), written()], "policy": file})
    assert cli.main(["serve", str(written()), "--policy", str(file)]) == 1
    assert "expected --policy with --ray, got it without" in capsys.readouterr().err


def test_a_policy_is_put_in_force_once_and_that_of_the_bundle_when_it_is_left_out(replica, engine):
    replica.reconfigure({"policies": {}})
    assert engine.policy_version == 1
    replica.reconfigure({"policies": {"net/1": FIRST}})
    replica.reconfigure({"policies": {"net/1": FIRST}})
    assert (engine.policy_version, engine.policy.shares.tolist()) == (2, [1, 0, 0])
    replica.reconfigure({"policies": {}})
    assert (engine.policy_version, engine.policy) == (3, engine.manifest.policy)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"policies": {}, "more": 1},
        {"policies": []},
        {"policies": {"other/1": FIRST}},
        {"policies": {"net/1": {}}},
        {"policies": {"net/1": {**FIRST, "score": "margin"}}},
    ],
)
def test_a_wrong_configuration_changes_nothing(replica, engine, config):
    with pytest.raises(ValueError, match="expected"):
        replica.reconfigure(config)
    assert engine.policy_version == 1


def test_a_replica_whose_engine_has_stopped_is_not_healthy(replica, engine):
    replica.check_health()
    engine._crew._fail(RuntimeError("no"))
    with pytest.raises(RuntimeError, match="net/1 stopped"):
        replica.check_health()


class Sent:
    """Metric that keeps what it is sent."""

    values: dict

    def __init__(self, name, description, tag_keys):
        self.name, self.keys = name, tag_keys

    def set(self, value, tags):
        self._put(tags, value)

    def inc(self, value, tags):
        key = self._key(tags)
        self._put(tags, self.values.get(key, 0.0) + value)

    def _key(self, tags):
        assert set(tags) == set(self.keys)
        return self.name, *tags.values()

    def _put(self, tags, value):
        self.values[self._key(tags)] = value


def test_metrics_are_sent_as_values_and_counts_as_what_was_added(engine):
    sent = type("Collected", (Sent,), {"values": {}})
    publisher = Publisher(Service(Models([engine])), sent, sent)
    for rows in (3, 2):
        engine.submit(bundles.inputs(rows)).result(20)
        publisher.send()
    assert sent.values["suffice_requests", "net", "1", "answered"] == 2
    assert sum(value for key, value in sent.values.items() if key[0] == "suffice_examples") == 5
    assert sent.values["suffice_request_seconds_count", "net", "1"] == 2
    assert sent.values["suffice_policy_version", "net", "1"] == 1
    assert sent.values["suffice_open_requests", "net", "1"] == 0
