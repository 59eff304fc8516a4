import pytest
import torch

from suffice.data.splits.assignment import DataSet
from suffice.data.splits.images import Images
from suffice.reproduce.dropout import exits
from suffice.reproduce.ledger import Ledger


def images(count: int, seed: int) -> Images:
    """Make images of two classes, dark and bright."""
    labels = torch.randint(2, (count,), generator=torch.Generator().manual_seed(seed))
    noise = torch.randint(64, (count, 1, 16, 16), generator=torch.Generator().manual_seed(seed + 1))
    return Images((noise + 90 * labels[:, None, None, None]).to(torch.uint8), labels)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_score_is_evaluated_on_the_same_network(monkeypatch, tmp_path):
    monkeypatch.setattr(exits, "ROWS", 200)
    sets = DataSet("x", images(400, 0), images(100, 2), images(100, 4), (), "")
    book = Ledger(tmp_path / "x.json", "", {}, {})
    measured = book.run("seed 0", lambda: exits.measure(sets, 0))
    assert [row["score"] for row in measured["rows"]] == [*exits.SCORES, "variation"]
    assert measured["accuracy"][-1] > 0.9
    spent = {row["score"]: row["macs"] for row in measured["rows"]}
    assert spent["variation"] > 0
    assert len(exits.scores(book.results).splitlines()) == 2 + len(measured["rows"])
