import pytest
import torch

from suffice import batches
from suffice.budget import scores, walk
from tests import builders

NET = builders.network()
X = builders.inputs(50)


def test_a_pass_visits_every_batch_at_every_exit_with_its_predictions_and_scores():
    calibrated = builders.untuned(NET, X)
    loader = batches.read(X.split(20), NET)
    visits = list(walk.visit_exits(calibrated, loader, scores.confidence, scores.patience))
    assert [(visit.batch.start, visit.exit) for visit in visits] == [(s, k) for s in (0, 20, 40) for k in range(3)]
    for k, expected in enumerate(calibrated(X)):
        here = [visit for visit in visits if visit.exit == k]
        torch.testing.assert_close(torch.cat([visit.prediction.probs for visit in here]), expected.probs)
        confidence, patience = (torch.cat(values) for values in zip(*(visit.scores for visit in here), strict=True))
        torch.testing.assert_close(confidence, scores.confidence(expected).double(), atol=1e-4, rtol=1e-4)
        assert torch.equal(patience, scores.patience(expected).double())


def test_exits_in_a_row_are_counted_only_for_scores_that_may_need_them():
    calibrated = builders.untuned(NET, X)
    for score, counted in ((scores.margin, False), (scores.patience, True), (lambda p, s: p.confidence, True)):
        for visit in walk.visit_exits(calibrated, batches.read([X], NET), score):
            assert (visit.prediction.agreeing is not None) == counted


def in_flight(calibrated):
    return walk.step(calibrated, 0, walk.begin(calibrated, X, start=100), count_streak=True)


def test_a_split_separates_the_finished_examples_and_marks_their_rows_as_padding():
    rows, prediction = in_flight(builders.untuned(NET, X))
    stops = torch.arange(50) % 3 == 0
    (finished,), masked, continuing = walk.split_at_exit(rows, prediction, stops, 0)
    assert finished.positions.tolist() == list(range(100, 150, 3))
    assert torch.equal(finished.prediction.probs, prediction.probs[stops])
    assert torch.equal(continuing, (~stops).nonzero()[:, 0])
    assert torch.equal(masked.positions == walk.PADDING, stops)
    again, _, remaining = walk.split_at_exit(masked, prediction, torch.ones(50, dtype=torch.bool), 1)
    assert again[0].positions.tolist() == rows.positions[~stops].tolist()
    assert len(remaining) == 0


@pytest.mark.parametrize("all_stop", [True, False])
def test_nothing_is_copied_where_all_rows_stop_or_continue(all_stop):
    rows, prediction = in_flight(builders.untuned(NET, X))
    finished, same, continuing = walk.split_at_exit(rows, prediction, torch.full((50,), all_stop), 0)
    assert same is rows
    assert [part.prediction for part in finished] == ([prediction] if all_stop else [])
    assert len(continuing) == (0 if all_stop else 50)


def test_rows_are_padded_by_the_first_of_them():
    rows, _ = in_flight(builders.untuned(NET, X))
    padded = rows.padded_to(torch.tensor([7, 3]), 4)
    assert padded.positions.tolist() == [107, 103, walk.PADDING, walk.PADDING]
    assert padded.padded
    assert torch.equal(padded.state, rows.state[[7, 3, 7, 7]])
    assert not rows.padded_to(torch.tensor([7, 3]), 2).padded


def test_joining_rows_is_the_reverse_of_taking_them():
    rows, _ = in_flight(builders.untuned(NET, X))
    joined = walk.join_rows([rows.take(torch.arange(20)), rows.take(torch.arange(20, 50))])
    assert torch.equal(joined.positions, rows.positions)
    assert torch.equal(joined.state, rows.state)
    assert torch.equal(joined.running.log_probs, rows.running.log_probs)
    assert all(map(torch.equal, joined.streak, rows.streak))
