"""The canonical store: manifests, writers, archives and downloads."""
