"""Locks that exclude each other across connections, and end with their holder."""

import subprocess
import sys
import threading
import time

from sqlalchemy import Engine, text

from monitoring.store.locks import exclusive

HOLD = """
import sys, time
from infra.database import connect
from monitoring.store.locks import exclusive
with exclusive(connect(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_at_a_time(engine: Engine) -> None:
    order = []

    def work(name: str) -> None:
        with exclusive(engine, "training"):
            order.append(f"{name} begins")
            time.sleep(0.2)
            order.append(f"{name} ends")

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line.split()[1] for line in order] == ["begins", "ends", "begins", "ends"]


def test_other_names_do_not_wait(engine: Engine) -> None:
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    with (
        exclusive(engine, "predictor a"),
        exclusive(engine, "predictor b"),
        engine.connect() as connection,
    ):
        assert connection.execute(text(held)).scalar_one() >= 2


def test_a_holder_s_death_frees_it(engine: Engine) -> None:
    address = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", HOLD, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        threading.Timer(0.5, holder.kill).start()
        begun = time.monotonic()
        with exclusive(engine, "training"):
            assert time.monotonic() - begun > 0.3
