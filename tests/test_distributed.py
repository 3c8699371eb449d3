"""Training spread over devices and processes gives the losses of one process."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from isolation import TESTS, run_python

PROGRAM = TESTS / "distributed_training.py"
# Two depthwise layers, five steps.
CALLS = 10
ROUTES = {"layer": "plugin op", "enabled": "built-in name"}


def train(where, what, **environment):
    completed = run_python(PROGRAM, where, what, environment=environment)
    return json.loads(completed.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def expected():
    """The losses of one process with TensorFlow's own kernels."""
    report = train("single", "neither")
    assert report["calls"] == {}
    assert report["losses"][-1] < report["losses"][0]
    return report["losses"]


def check(report, replicas, calls, what, expected):
    assert report["replicas"] == replicas
    (served,) = report["calls"].items()
    route, by_op = served
    assert route == ROUTES[what]
    assert len(by_op) == 3
    assert set(by_op.values()) == {calls}
    # The sums over the batch are taken in another order: some roundings per step.
    np.testing.assert_allclose(report["losses"], expected, rtol=1e-5)


@pytest.mark.parametrize("what", ROUTES)
def test_one_process(what, expected):
    check(train("single", what), 1, CALLS, what, expected)


@pytest.mark.parametrize("what", ROUTES)
def test_mirrored_over_two_devices(what, expected):
    check(train("mirrored", what), 2, 2 * CALLS, what, expected)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.mark.parametrize("what", ROUTES)
def test_two_worker_processes(what, expected):
    workers = [f"localhost:{port}" for port in free_ports(2)]

    def work(index):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": workers}, "task": task}
        return train("worker", what, TF_CONFIG=json.dumps(config))

    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(work, range(2)))
    for report in reports:
        check(report, 2, CALLS, what, expected)
    assert reports[0]["losses"] == reports[1]["losses"]
