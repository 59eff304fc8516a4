from concurrent.futures import ThreadPoolExecutor

import bundles


def test_eight_threads_on_one_runner_get_the_bytes_of_one(opened):
    runner = opened(**{**bundles.MIXED, "sets": bundles.SETS})
    batches = [bundles.inputs(n, seed=n) for n in (1, 2, 3, 5, 8, 13, 21, 34)]
    alone = [bytes_of(runner.run(x)) for x in batches]
    streamed = [bytes_of(served.answer) for served in runner.run_stream(batches, size=8, delay=2)]

    def work(thread):
        for i in range(40):
            at = (thread + i) % len(batches)
            assert bytes_of(runner.run(batches[at])) == alone[at]
            if i % 10 == 0:
                assert [bytes_of(served.answer) for served in runner.run_stream(batches, size=8, delay=2)] == streamed
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def bytes_of(answer):
    arrays = (answer.probs, answer.aleatoric, answer.exit, answer.scores, answer.macs, answer.set.members)
    return [array.tobytes() for array in arrays]
