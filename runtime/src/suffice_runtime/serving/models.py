"""Several models by name and version, each with an engine of its own."""

from collections.abc import Iterable, Iterator

from suffice_runtime.bundle.entries import printable
from suffice_runtime.serving.engine import Engine


class Models:
    """Engines by name and version.

    Args:
        engines: Engines with different names or versions.

    Raises:
        ValueError: If two engines have one name and version.
    """

    def __init__(self, engines: Iterable[Engine]) -> None:
        self._engines: dict[tuple[str, str], Engine] = {}
        for engine in engines:
            key = engine.name, engine.version
            if key in self._engines:
                raise ValueError(f"expected one engine for each name and version, got two for {key}")
            self._engines[key] = engine

    def __len__(self) -> int:
        """Number of engines."""
        return len(self._engines)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Iterate over the names and versions."""
        return iter(self._engines)

    def __contains__(self, key: object) -> bool:
        """Return whether there is an engine with a name and version."""
        return key in self._engines

    def __getitem__(self, key: tuple[str, str]) -> Engine:
        """Return the engine with a name and version, as `get`."""
        return self.get(*key)

    def get(self, name: str, version: str | None = None) -> Engine:
        """Return an engine.

        Args:
            name: Name of the model.
            version: Its version; None for the latest.

        Raises:
            LookupError: If there is none.
        """
        versions = self.versions(name)
        if not versions:
            names = sorted({known for known, _ in self._engines})
            raise LookupError(f"expected a model in {printable(names, 200)}, got {printable(repr(name))}")
        if version is None:
            version = versions[-1]
        if version not in versions:
            raise LookupError(
                f"expected a version of {printable(name)} in {printable(list(versions), 200)}, got "
                f"{printable(repr(version))}"
            )
        return self._engines[name, version]

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the versions of a model, rising, with their numbers compared as numbers; empty for unknown names."""
        return tuple(sorted((version for known, version in self._engines if known == name), key=_parts))

    def index(self) -> dict[str, tuple[str, ...]]:
        """Return the versions of each model by its name."""
        return {name: self.versions(name) for name in sorted({known for known, _ in self._engines})}

    def ready(self, name: str, version: str | None = None) -> bool:
        """Return whether a model accepts requests if there is room; errors are those of `get`."""
        return self.get(name, version).ready

    def close(self, timeout: float | None = None) -> bool:
        """Close all engines together; return whether all have ended within some seconds each."""
        for engine in self._engines.values():
            engine.close(0)
        ended = [engine.close(timeout) for engine in self._engines.values()]
        return all(ended)


def _parts(version: str) -> list[tuple[int, int, str]]:
    """Return the parts of a version between its dots, in an order in which numbers are behind names."""
    parts = version.split(".")
    return [(1, int(part), "") if part.isascii() and part.isdigit() else (0, 0, part) for part in parts]
