"""Settings that have to be made before any test file imports TensorFlow."""

import os

# Start-up chatter would bury the failing case; errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_report_header():
    from tf_dwgrad._library import cpu_isa, cpu_isa_reason

    return f"CPU kernels: {cpu_isa()}: {cpu_isa_reason()}"
