"""Lets OpenMP threads sleep while they wait; called before torch is imported.

Torch computes with one OpenMP thread per core. By default a thread that waits for the others spins: on a quiet machine
that costs processor time and gains nothing here, and on a busy one the spinning thread takes the core from the thread it
waits for. Measured by benchmarks/threads.py with the embedded base on 2 cores, 20 training steps and 50 scorings:

=======================  ===============  ==============
seconds                  quiet machine    busy machine
=======================  ===============  ==============
default                  5.1 and 3.7      20.4 and 67.9
``PASSIVE``              3.6 and 3.5      13.5 and 14.0
one thread               4.3 and 4.1      9.3 and 9.0
=======================  ===============  ==============

``PASSIVE`` is set, not one thread: it loses nothing on a quiet machine, and large models gain by every core.
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
