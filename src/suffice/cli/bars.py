"""Progress bars for long work, one per task."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from suffice.utils.text import printable


class Bars:
    """Progress callback that shows one bar per task.

    Args:
        bars: Display that the bars are added to.
        keep: Keep the bars of finished tasks on screen.
    """

    def __init__(self, bars: Progress, keep: bool = True) -> None:
        self.bars = bars
        self.keep = keep
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Update the bar of a task to `done` of `total` steps; a total of 0 means that it is not known."""
        if what not in self.tasks:
            self.tasks[what] = self.bars.add_task(printable(what), total=total or None)
        self.bars.update(self.tasks[what], completed=done)
        if done == total and not self.keep:
            self.bars.remove_task(self.tasks.pop(what))


def description_column() -> TextColumn:
    """Return the column with the names of the tasks; markup is off, because a name may be that of a user's file."""
    return TextColumn("{task.description:24}", markup=False)


def progress_display(console: Console) -> Progress:
    """Return a display of bars with the name, the steps and the elapsed time of each task."""
    columns = (description_column(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)
