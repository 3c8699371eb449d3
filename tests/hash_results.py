"""Prints a hash of the results' bytes for many cases, as JSON.

Usage: python hash_results.py <threads> <repetitions> [jit]. The number of threads is
fixed before TensorFlow starts its pool, so the tests run one process per number. With
jit, XLA compiles the ops.
"""

import dataclasses
import hashlib
import itertools
import json
import sys

import numpy as np
import tensorflow as tf
from numerics import OPS, normal_operands, run_ops
from reference import DTYPES, Case


def cases():
    """Enough work to be split, in every way the kernels split it, and too little."""
    shapes = [
        Case(1, (56, 56), 24, 1, (3, 3)),  # one image
        Case(1, (40, 41), 5, 3, (5, 4), (2, 3), (2, 1)),
        Case(1, (14, 14), 300, 1, (3, 3), (2, 2)),
        Case(4, (20, 21), 17, 1, (7, 7)),
        Case(1, (33, 40), 3, 1, (31, 31)),
        Case(1, (20, 600), 4, 1, (3, 3), dilations=(2, 3), padding="VALID"),
        Case(2, (9, 10), 2, 200, (3, 3), padding="EXPLICIT", pads=((1, 2), (0, 3))),
        Case(2, (1, 1), 33, 2, (1, 1)),
        # In float32, dX goes past the caches with one thread and not with more.
        Case(17, (14, 14), 512, 1, (3, 3), (2, 2)),
    ]
    for case, data_format, dtype in itertools.product(shapes, ("NHWC", "NCHW"), DTYPES):
        yield dataclasses.replace(case, data_format=data_format, dtype=dtype)


def main():
    threads, repetitions = int(sys.argv[1]), int(sys.argv[2])
    jit = sys.argv[3:] == ["jit"]
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    hashes = {}
    for seed, case in enumerate(cases()):
        operands = normal_operands(case, np.random.default_rng(seed))
        for _ in range(repetitions):
            results = run_ops(case, *operands, jit=jit)
            for name in OPS:
                digest = hashlib.sha256(results[name].tobytes()).hexdigest()
                hashes.setdefault(f"{name} of {case}", []).append(digest)
    print(json.dumps({"threads": threads, "hashes": hashes}))


if __name__ == "__main__":
    main()
