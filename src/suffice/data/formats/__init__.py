"""File formats: images, tables, NumPy archives and the pickles of CIFAR."""
