"""Faults as in `test_faults` at every system call that strace records; skipped without strace."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress

import pytest

from tests.robustness.operations import OPERATIONS
from tests.robustness.test_faults import FAILED, KILLED, NEW, OLD, WRITERS, check

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

CALLS = "%file,%desc"
SECONDS = 30


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("SUFFICE_DATA", "")


def traced(work, injection, log):
    """Call a function in a forked process with an injected fault, and return its exit status."""
    ready, go = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with suppress(OSError):  # the injected fault may hit this call
                os.close(go)
                os.read(ready, 1)
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(ready)
    command = ["strace", "-f", "-o", str(log), "-e", f"trace={CALLS}", *injection, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        attached = tracer.stderr.readline()
        os.close(go)
        status = ended(pid)
        tracer.stderr.read()
    if "attached" not in attached:
        pytest.skip(f"strace cannot attach: {attached}")
    return status


def ended(pid):
    """Return the exit status of a process that must end within `SECONDS`."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError("the operation hung")


def calls(operation, tmp_path, first):
    """Return the number of calls of each system call."""
    (tmp_path / "counted").mkdir()
    if not first:
        operation.write(tmp_path / "counted", OLD)
    assert traced(lambda: operation.write(tmp_path / "counted", NEW), [], tmp_path / "log") == 0
    names = re.findall(r"^\d+ +(\w+)\(", (tmp_path / "log").read_text(), re.MULTILINE)
    return Counter(names)


def every_call(operation, tmp_path, fault, first):
    counted = calls(operation, tmp_path, first)
    assert counted["fsync"] > 1
    for name, count in counted.items():
        for n in range(1, count + 1):
            folder = tmp_path / f"{name}{n}"
            folder.mkdir()
            if not first:
                operation.write(folder, OLD)
            injection = ["-e", f"inject={name}:{fault}:when={n}"]
            status = traced(lambda f=folder: operation.write(f, NEW), injection, tmp_path / "log")
            what = f"{name} {n}: {re.findall('.*INJECTED.*', (tmp_path / 'log').read_text())}"
            check(operation, folder, None if first else OLD, returned=status == 0, what=what)
            shutil.rmtree(folder)
    return counted.total()


@pytest.mark.parametrize("first", [False, True], ids=["replaced", "new"])
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("fault", ["error=EIO", f"signal={signal.SIGKILL.value}"])
def test_a_fault_at_any_system_call_leaves_the_old_or_the_new_version(fault, name, first, tmp_path, tried):
    tried(FAILED if "error" in fault else KILLED, every_call(OPERATIONS[name], tmp_path, fault, first))
