"""The same numbers from the kernels for every instruction set that this machine has.

The library chooses the best once per process; the other test files see only that one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tf_dwgrad._library import cpu_isa, usable_cpu_isas

USABLE = usable_cpu_isas()
# The other test files see the chosen one; those before it, if any, are capped off.
OLDER = USABLE[USABLE.index(cpu_isa()) + 1 :]

# Says first which kernels it got, since a name that does not apply is no limit.
PROGRAM = """
import sys, pytest
from tf_dwgrad._library import cpu_isa
print("kernels:", cpu_isa(), flush=True)
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def runs():
    """By instruction set: the run of the two files about values, all side by side."""
    here = Path(__file__).parent
    arguments = [str(here / "test_exact.py"), str(here / "test_rounding.py"), "-q"]
    arguments += ["-k", "not configuration and not long_sums", "-p", "no:cacheprovider"]
    processes = {
        isa: subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            env={**os.environ, "TF_DWGRAD_MAX_ISA": isa},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for isa in OLDER
    }
    # A process whose pipe is full waits for its turn.
    outputs = {isa: run.communicate(timeout=600)[0] for isa, run in processes.items()}
    return {isa: (processes[isa].returncode, outputs[isa]) for isa in OLDER}


@pytest.mark.skipif(not OLDER, reason="there is only one")
@pytest.mark.parametrize("isa", OLDER)
def test_values(isa, runs):
    status, output = runs[isa]
    assert f"kernels: {isa}\n" in output, output[-4000:]
    assert status == 0, output[-4000:]
