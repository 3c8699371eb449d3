"""Builds the op library with CMake against the TensorFlow of this interpreter."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# What CMake builds for the package: the ops, what tells which TensorFlow they were
# built for, and what measures the machine for the benchmark.
PRODUCTS = ("_tf_dwgrad_ops.so", "build_info.json", "_tf_dwgrad_machine.so")
# What it builds where TensorFlow has all that this needs: the ops under XLA.
OPTIONAL_PRODUCTS = ("_tf_dwgrad_xla.so",)

# The distributions that provide `import tensorflow`.
DISTRIBUTIONS = ["tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly"]

FIND_DISTRIBUTION = """
import importlib.metadata as metadata, sys
for name in sys.argv[1:]:
    try:
        print(name, metadata.version(name))
        break
    except metadata.PackageNotFoundError:
        pass
"""


def clean_environment():
    """The environment without what pip's build isolation puts into it.

    Under isolation pip runs this interpreter with another set of packages in front;
    without these variables it sees the packages the user has.
    """
    hidden = ("PYTHONPATH", "PYTHONNOUSERSITE")
    return {k: v for k, v in os.environ.items() if k not in hidden}


def find_tensorflow():
    """The installed TensorFlow distribution and its version."""
    found = subprocess.run(
        [sys.executable, "-c", FIND_DISTRIBUTION, *DISTRIBUTIONS],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if len(found) != 2:
        sys.exit(
            "tf_dwgrad is built against an installed TensorFlow and "
            f"{sys.executable} has none: first run '{sys.executable} -m pip install "
            '"tensorflow>=2.21,<2.22"\', then install tf_dwgrad with '
            "'pip install --no-build-isolation .'"
        )
    return found


def tensorflow_requirement():
    """A requirement that allows only the minor version that is built against."""
    name, version = find_tensorflow()
    major, minor = (int(part) for part in re.findall(r"\d+", version)[:2])
    return f"{name}>={major}.{minor},<{major}.{minor + 1}"


class BuildWithCMake(build_ext):
    """Lets CMake build the library and puts it into the package."""

    def run(self):
        cmake = shutil.which("cmake")
        if cmake is None:
            sys.exit("tf_dwgrad needs CMake: run 'python -m pip install cmake'")
        compilers = [os.environ.get("CXX"), "c++", "g++", "clang++"]
        if not any(name and shutil.which(name) for name in compilers):
            sys.exit(
                "tf_dwgrad needs a C++17 compiler: install one, on Debian and Ubuntu "
                "with 'apt-get install g++', or name one in the variable CXX"
            )
        find_tensorflow()
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        build_dir = ROOT / "build" / f"python{version}"
        build_dir.mkdir(parents=True, exist_ok=True)
        jobs = str(os.cpu_count() or 1)
        for command in (
            [
                cmake,
                "-S",
                str(ROOT),
                "-B",
                str(build_dir),
                "-G",
                "Unix Makefiles",
                "-DCMAKE_BUILD_TYPE=Release",
                f"-DPython_EXECUTABLE={sys.executable}",
                # `make` builds them in this folder, too.
                "-DTF_DWGRAD_BUILD_TESTS=OFF",
                "-DTF_DWGRAD_BUILD_BENCHMARKS=OFF",
                f"-DTF_DWGRAD_CUDA={os.environ.get('TF_DWGRAD_CUDA') or 'AUTO'}",
                "-DTF_DWGRAD_CUDA_ARCHITECTURES="
                + os.environ.get("TF_DWGRAD_CUDA_ARCHITECTURES", ""),
            ],
            [cmake, "--build", str(build_dir), "--parallel", jobs],
        ):
            result = subprocess.run(command, check=False)
            if result.returncode != 0:
                sys.exit(f"tf_dwgrad: '{' '.join(command)}' failed; see above")
        if self.inplace:
            target = ROOT / "python" / "tf_dwgrad"
        else:
            target = Path(self.build_lib) / "tf_dwgrad"
        target.mkdir(parents=True, exist_ok=True)
        for name in PRODUCTS:
            shutil.copy2(build_dir / name, target / name)
        for name in OPTIONAL_PRODUCTS:
            if (build_dir / name).exists():
                shutil.copy2(build_dir / name, target / name)

    def get_outputs(self):
        target = Path(self.build_lib) / "tf_dwgrad"
        built = [name for name in OPTIONAL_PRODUCTS if (target / name).exists()]
        return [str(target / name) for name in (*PRODUCTS, *built)]

    def get_source_files(self):
        return []


setup(
    name="tf_dwgrad",
    version="0.1.0",
    description="Gradients of depthwise 2-D convolution for TensorFlow: correct "
    "for every stride, dilation and layout, and fast",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir={"": "python"},
    packages=["tf_dwgrad", "tf_dwgrad.bench"],
    package_data={"tf_dwgrad": ["*.csv"]},
    # No sources: CMake compiles. The entry marks the wheel as platform-specific.
    ext_modules=[Extension("tf_dwgrad._tf_dwgrad_ops", sources=[])],
    cmdclass={"build_ext": BuildWithCMake},
    install_requires=[tensorflow_requirement()],
    extras_require={
        "bench": ["matplotlib", "tqdm"],
        "demo": ["scikit-learn", "matplotlib", "tqdm"],
    },
    zip_safe=False,
)
