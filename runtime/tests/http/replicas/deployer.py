"""Process that runs an application of Ray Serve, and takes commands from its standard input, each a JSON array.

["deploy", options] deploys it, ["kill", id] kills a replica. It prints "done" after each, and ends with its input.
Ray runs in a process of its own, as it leaves threads and warnings behind.
"""

import json
import sys

import ray
from ray import serve

from suffice_runtime.http.ray import application


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
            if name == "deploy":
                serve.run(application.build(value), name=application.NAME)
            else:
                full = f"SERVE_REPLICA::{application.NAME}#{application.NAME}#{value}"
                ray.kill(ray.get_actor(full, namespace="serve"))
            print("done", flush=True)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
