"""A rank that needs no torch, for tests of the launcher: what it does is its first argument."""

import os
import signal
import sys
import time
from pathlib import Path

from pretrain.resilience.signals import StopSignal, die_with_launcher

what, folder = sys.argv[1], Path(sys.argv[2])
rank = os.environ["RANK"]
if what == "train":
    die_with_launcher()
    time.sleep(0.5)  # the program loads: a signal must wait
    stop = StopSignal().install()
    (folder / f"pid_{rank}").write_text(str(os.getpid()))
    while not stop.received:
        time.sleep(0.02)
    os.write(1, f"rank {rank} saved\n".encode())  # one write: the lines of two ranks do not mix
elif what == "fail" and rank == "1":
    sys.exit(3)
elif what == "kill" and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
elif what in {"fail", "kill"}:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    time.sleep(60)
