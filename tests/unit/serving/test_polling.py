"""What is looked at again and again."""

import threading

from serving.polling import Poller


class Looks:
    """Counts the looks; each is waited for."""

    def __init__(self, wait: float) -> None:
        self.count, self.wait = 0, wait
        self.looked = threading.Semaphore(0)

    def __call__(self) -> float:
        self.count += 1
        self.looked.release()
        return self.wait


def test_it_looks_again_after_the_wait_and_no_more_once_stopped() -> None:
    looks = Looks(0.001)
    poller = Poller("looks of this test", looks)
    poller.start()
    for _ in range(3):
        assert looks.looked.acquire(timeout=10)
    poller.stop()
    assert "looks of this test" not in {thread.name for thread in threading.enumerate()}


def test_a_wait_ends_early_when_woken_or_stopped() -> None:
    looks = Looks(3600.0)
    poller = Poller("test", looks)
    poller.start()
    assert looks.looked.acquire(timeout=10)
    poller.wake()
    assert looks.looked.acquire(timeout=10)
    poller.stop()
    assert looks.count == 2


def test_one_that_never_started_is_stopped() -> None:
    looks = Looks(0.0)
    Poller("test", looks).stop()
    assert looks.count == 0
