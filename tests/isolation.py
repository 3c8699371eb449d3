"""Runs calls that might end the process in a process of their own."""

import multiprocessing
import os
import resource
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def limit_memory(megabytes):
    """Lets the process grow by this much and no more; larger requests then fail."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _set_environment(environment):
    # Runs before the first task, whose module imports TensorFlow.
    os.environ.update(environment)


class IsolatedProcess:
    """A process that calls functions, and is replaced when a call ends it."""

    def __init__(self, **environment):
        self._environment = {**QUIET, **environment}
        self._pool = None

    def call(self, function, *args, timeout=300):
        """Returns what the function returns; raises BrokenProcessPool on a crash."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                max_workers=1,
                # A fork would inherit TensorFlow's threads in a broken state.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_set_environment,
                initargs=(self._environment,),
            )
        try:
            return self._pool.submit(function, *args).result(timeout=timeout)
        except BrokenProcessPool:
            self._pool = None
            raise

    def call_or_fail(self, function, *args):
        """As call, but a crash is a test failure that names the arguments."""
        try:
            return self.call(function, *args)
        except BrokenProcessPool:
            pytest.fail(f"the process ended in {function.__name__}{args}")

    def close(self):
        if self._pool is not None:
            self._pool.shutdown()


def run_python(*arguments, environment=None, check=True, cwd=None):
    """Runs a fresh interpreter on these arguments and returns the completed process."""
    completed = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **QUIET, **(environment or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if check and completed.returncode != 0:
        pytest.fail(f"exit status {completed.returncode}:\n{completed.stderr[-4000:]}")
    return completed
