"""The kernels' own threads, where a process forks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.usefixtures("native")

FORKS = """
import os, signal, sys, threading
import numpy as np
from gnnexport.native import kernels

rowptr, x = np.array([0, 1000, 2000]), np.ones((2, 256), np.float32)
csr = kernels.Csr(rowptr.ctypes.data, 0, 2, 2000, 2000)

def call():
    out = np.zeros((2000, 256), np.float32)
    kernels.spread(csr, x.ctypes.data, 256, out.ctypes.data, threads=2)
    return bool((out == 1).all())

def keep_calling():
    while not done:
        call()

done = []
call()
callers = [threading.Thread(target=keep_calling) for _ in range(int(sys.argv[1]))]
for caller in callers:
    caller.start()
statuses = []
for _ in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if call() else 1)
    statuses.append(os.waitpid(child, 0)[1])
    if statuses[-1]:
        break
done.append(True)
print(len(statuses), statuses[-1])
os._exit(statuses[-1] != 0 or not call())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(("callers", "forks"), [(0, 2), (3, 300)])
def test_a_forked_child_computes(callers: int, forks: int) -> None:
    """A child has threads of its own, also where the parent was amid calls as it forked."""
    command = [sys.executable, "-W", "ignore", "-c", FORKS, str(callers), str(forks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
