from serving.gateway.breaker import FAILURES, MAX_OPEN_SECONDS, OPEN_SECONDS, Breaker


def failing(breaker: Breaker, times: int, now: float) -> None:
    for _ in range(times):
        breaker.fail(now, breaker.enter(now))


def test_it_opens_after_failures_in_a_row_and_probes_once() -> None:
    breaker = Breaker()
    failing(breaker, FAILURES - 1, 0.0)
    breaker.succeed()
    failing(breaker, FAILURES - 1, 0.0)
    assert breaker.state(0.0) == "closed"
    failing(breaker, 1, 0.0)
    assert breaker.state(OPEN_SECONDS - 0.1) == "open"
    assert not breaker.lets_through(OPEN_SECONDS - 0.1)
    assert breaker.state(OPEN_SECONDS) == "half-open"
    breaker.enter(OPEN_SECONDS)
    assert not breaker.lets_through(OPEN_SECONDS), "one probe at a time"
    breaker.succeed()
    assert breaker.state(OPEN_SECONDS) == "closed"


def test_each_failed_probe_doubles_its_time_up_to_a_limit() -> None:
    breaker, now = Breaker(), 0.0
    failing(breaker, FAILURES, now)
    waits = []
    for _ in range(8):
        start = now
        while not breaker.lets_through(now):
            now += 1.0
        waits.append(now - start)
        failing(breaker, 1, now)
    assert waits == [5, 10, 20, 40, 80, 120, 120, 120]
    assert waits[-1] == MAX_OPEN_SECONDS


def test_a_probe_that_says_nothing_lets_the_next_one_through() -> None:
    breaker = Breaker()
    failing(breaker, FAILURES, 0.0)
    breaker.leave(breaker.enter(OPEN_SECONDS))
    assert breaker.state(OPEN_SECONDS) == "half-open"


def test_what_went_out_before_the_probe_does_not_end_it() -> None:
    breaker = Breaker()
    early = [breaker.enter(0.0) for _ in range(3)]
    failing(breaker, FAILURES, 0.0)
    probe = breaker.enter(OPEN_SECONDS)
    breaker.leave(early[0])
    assert not breaker.lets_through(OPEN_SECONDS), "its client left, the probe is still out"
    breaker.fail(OPEN_SECONDS, early[1])
    assert breaker.state(2 * OPEN_SECONDS) == "open", "the probe is still out"
    breaker.leave(probe)
    assert breaker.state(2 * OPEN_SECONDS) == "half-open", "and was not what failed: 5 s, not 10"
    probe = breaker.enter(2 * OPEN_SECONDS)
    breaker.pause(60.0, 2 * OPEN_SECONDS, early[2])
    breaker.leave(probe)
    assert not breaker.lets_through(3 * OPEN_SECONDS), "it asked to be left alone"
    assert breaker.lets_through(2 * OPEN_SECONDS + 60.0)


def test_a_candidate_is_left_alone_as_long_as_it_asks() -> None:
    breaker = Breaker()
    breaker.pause(3.0, 0.0, breaker.enter(0.0))
    assert breaker.state(2.9) == "paused"
    assert not breaker.lets_through(2.9)
    assert breaker.state(3.0) == "closed"
    breaker.pause(1e9, 3.0, breaker.enter(3.0))
    assert breaker.lets_through(3.0 + MAX_OPEN_SECONDS)
