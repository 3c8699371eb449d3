"""Compares cases with TensorFlow's op in a process with an environment of its own.

Reads a line of JSON for each case and writes one; see ``peers.Native``, which starts
it with the number of threads as the only argument.
"""

import json
import os
import sys

import tensorflow as tf

from tf_dwgrad.bench.cases import Case
from tf_dwgrad.bench.operations import operation_of
from tf_dwgrad.bench.peers import Builtin, Unavailable


def _answer(question: dict) -> dict:
    operation = operation_of(Case.from_json(question.pop("case")))
    try:
        return Builtin().compare(operation, **question).to_json()
    except Unavailable as reason:
        return {"unavailable": str(reason)}


def main() -> None:
    """Answers until there are no more questions."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # Nothing that others print may come between.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
