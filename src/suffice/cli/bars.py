"""Progress bars for long work, one for each thing that is being done."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from suffice.utils.text import printable


class Bars:
    """A progress bar for each thing that is being done; where there are many, none is kept of what is finished."""

    def __init__(self, bars: Progress, keep: bool = True) -> None:
        self.bars = bars
        self.keep = keep
        self.known: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` of something is done; a total of 0 is not known."""
        if what not in self.known:
            self.known[what] = self.bars.add_task(printable(what), total=total or None)
        self.bars.update(self.known[what], completed=done)
        if done == total and not self.keep:
            self.bars.remove_task(self.known.pop(what))


def description() -> TextColumn:
    """The column that names what is being done, which may be after a file of the user's: not markup."""
    return TextColumn("{task.description:24}", markup=False)


def bars(console: Console) -> Progress:
    """What the bars are shown in."""
    columns = (description(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)
