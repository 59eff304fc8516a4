"""Process that runs an application of Ray Serve, and takes commands from its standard input, each a JSON array.

["deploy", entries] deploys it, as `serve deploy` does with entries of a file: those of the application and of its
deployment; ["kill", id] kills a replica. It prints "done" after each, or the state that is not "RUNNING", and ends with
its input.
Ray runs in a process of its own, as it leaves threads and warnings behind.
"""

import json
import sys
import time

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from suffice_runtime.http.ray import application

SECONDS = 300  # as processors may be busy


def main(port, metrics):
    """Run commands until there are no more."""
    try:
        ray.init(
            address="local",
            num_cpus=3,  # one more than there are replicas, so that one starts before another one ends
            object_store_memory=100 << 20,
            include_dashboard=False,
            log_to_driver=False,
            _metrics_export_port=metrics,
        )
        serve.start(http_options={"port": port})
        for line in sys.stdin:
            name, value = json.loads(line)
            print(deploy(*value) if name == "deploy" else kill(value), flush=True)
    finally:
        serve.shutdown()
        ray.shutdown()


def deploy(arguments, entries):
    """Deploy the application, and return its state when that no longer changes."""
    deployment = {"name": application.NAME, **entries}
    path = "suffice_runtime.http.ray.application:build"
    found = {"name": application.NAME, "import_path": path, "args": arguments, "deployments": [deployment]}
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate({"applications": [found]}), _blocking=False)
    time.sleep(2)  # until the state is not that of the deployment before
    end = time.monotonic() + SECONDS
    while (state := serve.status().applications[application.NAME].status) in ("DEPLOYING", "UNHEALTHY"):
        if time.monotonic() >= end:
            break
        time.sleep(0.2)
    return "done" if state == "RUNNING" else state


def kill(replica):
    """Kill a replica by its id."""
    name = f"SERVE_REPLICA::{application.NAME}#{application.NAME}#{replica}"
    ray.kill(ray.get_actor(name, namespace="serve"))
    return "done"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
