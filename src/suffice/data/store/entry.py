"""What is known of a data set before it is there: where it comes from, under which terms, and who reads it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suffice.data.store.store import Writer


@dataclass(frozen=True)
class Remote:
    """One file of the official distribution.

    Attributes:
        file: its name.
        checksum: `sha256:…` or `md5:…`; None where no certain one is known, then the hash found is recorded.
        url: where it is; None where it must be fetched by hand, because its terms must be accepted first.
    """

    file: str
    checksum: str | None
    url: str | None


_NAMED = 10
"""Faults that are described."""


@dataclass
class Faults:
    """Malformed lines and images: refused, or counted and named while the rest is kept; `how` that is asked for."""

    skip: bool = False
    how: str = "`--bad skip` (bad='skip')"
    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, where: str, why: str) -> None:
        """Note one fault.

        Raises:
            ValueError: unless faults are skipped.
        """
        if not self.skip:
            raise ValueError(f"{where}: {why}; leave such ones out with {self.how}")
        self.count += 1
        if len(self.named) < _NAMED:
            self.named.append(f"{where}: {why}")

    def add_each(self, rows: Sequence[int], describe: Callable[[int], tuple[str, str]]) -> None:
        """Note one fault for each of these rows, which are described as long as that is of any use.

        Raises:
            ValueError: unless faults are skipped.
        """
        for row in rows[:_NAMED]:
            self.add(*describe(row))
        self.count += len(rows[_NAMED:])


Convert = Callable[[Path, Writer, Faults], None]
"""Reads the source, an official file, a folder with it or with what it unpacks to, or the compact layout, and
writes the set. Raises ValueError or FileNotFoundError, naming what it expected."""


@dataclass(frozen=True)
class Entry:
    """A data set of the catalogue.

    Attributes:
        name: the folder's, and what `load` is asked for.
        title: in a few words.
        kind: `images` (arrays), `encoded` (images decoded as they are asked for) or `table`.
        licence: in a few words.
        home: the page that describes it and states its terms.
        remotes: the official files.
        convert: what reads them.
        defaults: of `load`: `validation` and `test`, a count or a share each.
    """

    name: str
    title: str
    kind: str
    licence: str
    home: str
    remotes: tuple[Remote, ...]
    convert: Convert
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def free(self) -> bool:
        """Whether all of its files may be downloaded without accepting terms first."""
        return all(remote.url is not None for remote in self.remotes)

    def official(self, source: Path) -> list[Path]:
        """The official files at a source: itself, or those in the folder that it is."""
        if source.is_dir():
            return [source / remote.file for remote in self.remotes if (source / remote.file).is_file()]
        return [source]

    def by_hand(self) -> str:
        """The command that imports what was got by hand."""
        return f"suffice data import {self.name} {self.remotes[0].file if len(self.remotes) == 1 else 'FOLDER'}"


def holding(source: Path, folder: str, *names: str) -> Path | None:
    """The folder with files of all these names: the source, one of that name in it, or where it is one of them."""
    for place in (source, source / folder, *([source.parent] if source.name in names else [])):
        if all((place / name).is_file() for name in names):
            return place
    return None
