"""Lets OpenMP threads sleep while they wait; called before torch is imported.

Torch computes with one OpenMP thread per core. By default a thread that waits for the others polls in a loop (spins): on
an idle machine that uses processor time without a gain here, and on a busy one the spinning thread occupies the core that
the awaited thread needs. Measured by ``python benchmarks/threads.py --quick``, embedded base, 2 cores: wall-clock seconds of
20 training steps / 50 scorings.

============================  ===============  ===============
setting                       quiet machine    busy machine
============================  ===============  ===============
default                       5.1 / 3.7        20.4 / 67.9
default, second run           3.6 / 3.5        41.8 / 36.3
``OMP_WAIT_POLICY=PASSIVE``   3.6 / 3.5        13.5 / 14.0
``OMP_NUM_THREADS=1``         4.3 / 4.1        9.3 / 9.0
both                          4.8 / 4.5        30.1 / 11.9
============================  ===============  ===============

These are the figures of one run on a shared virtual machine, and they vary: the default was measured twice and gave 3.5 to
5.1 s quiet and 20 to 68 s busy. Only the order of the busy column is of use. ``PASSIVE`` is set, not one thread, because
large models compute faster with every core.
"""

from __future__ import annotations

import os
import sys

SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""For GNU's OpenMP, which the wheels of torch bring, and for Intel's (milliseconds)."""

SET_BY_USER = (*SLEEP, "GOMP_SPINCOUNT", "KMP_LIBRARY")
"""Variables that decide how long a thread spins: where one is set, nothing is changed."""


def prepare() -> None:
    """Set the environment variables for this process and its children; without effect once torch is imported.

    OpenMP reads them when it is loaded, which is when torch is imported.
    """
    if "torch" in sys.modules or any(name in os.environ for name in SET_BY_USER):
        return
    os.environ.update(SLEEP)
