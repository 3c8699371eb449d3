"""Results are the same to the last bit for any number of threads, and every time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("hash_results.py")
# 1 is the yardstick; 5 do not divide the work evenly, nor fit the machine, perhaps.
REPETITIONS = {1: 1, 2: 4, 5: 2}


@pytest.fixture(scope="module")
def hashes():
    """By number of threads: the hashes of each case's repetitions."""
    processes = {
        threads: subprocess.Popen(
            [sys.executable, str(PROGRAM), str(threads), str(repetitions)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        for threads, repetitions in REPETITIONS.items()
    }
    hashes = {}
    for threads, process in processes.items():
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, f"hash_results.py failed:\n{errors[-4000:]}"
        report = json.loads(output.splitlines()[-1])
        assert report["threads"] == threads
        hashes[threads] = report["hashes"]
    return hashes


@pytest.mark.parametrize("threads", [threads for threads in REPETITIONS if threads > 1])
@pytest.mark.parametrize("name", ["forward", "input_gradient", "filter_gradient"])
def test_threads_do_not_change_the_result(hashes, name, threads):
    mine = [case for case in hashes[1] if case.startswith(name)]
    assert len(mine) == len(hashes[1]) // 3 >= 60
    different = [c for c in mine if hashes[threads][c][0] != hashes[1][c][0]]
    assert not different, f"1 and {threads} threads differ: {different}"


@pytest.mark.parametrize("threads", [threads for threads in REPETITIONS if threads > 1])
def test_repetitions_give_the_same_result(hashes, threads):
    for case, repeated in hashes[threads].items():
        assert len(repeated) == REPETITIONS[threads]
        assert len(set(repeated)) == 1, f"{case} varies with {threads} threads"


def test_hashes_tell_results_apart(hashes):
    """Different cases have different bytes, so that the hashes mean something."""
    first = [repeated[0] for repeated in hashes[1].values()]
    assert len(set(first)) == len(first)
