"""The service as a deployment of Ray Serve, whose replicas have an engine each. Needs the extra `ray`."""
