"""Read an exported bundle: the manifest, its graphs, and its costs."""
