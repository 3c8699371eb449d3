"""Settings that have to be made before any test file imports TensorFlow."""

import os

# Start-up chatter would bury the failing case; errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_report_header():
    from tf_dwgrad._library import cpu_isa, cpu_isa_reason

    return f"CPU kernels: {cpu_isa()}: {cpu_isa_reason()}"


# The files that take longest, first: otherwise one process is still busy with one
# of them when the others are done.
LONG_FILES = ["test_models.py", "test_xla.py", "test_enable.py", "test_bench.py"]


def pytest_collection_modifyitems(items):
    def turn(item):
        name = item.path.name
        return LONG_FILES.index(name) if name in LONG_FILES else len(LONG_FILES)

    items.sort(key=turn)
