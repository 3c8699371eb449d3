#!/usr/bin/env bash
# Makes .venv with everything that building, testing and the demo need.
#
#   [PYTHON=python3.12] tools/set_up_environment.sh
#
# PYTHON names the interpreter; without it an existing .venv is kept, or made with
# python3 or the newest python3.x that TensorFlow supports. .venv/ready changes only when
# the environment does, so that make rebuilds the package only then.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly NEWEST_MINOR=13
readonly OLDEST_MINOR=10
readonly VENV=.venv
readonly READY="$VENV/ready"
readonly REQUIREMENTS=requirements-dev.txt

step() {
  echo "== $1"
}

fail() {
  echo "tf_dwgrad: $1" >&2
  exit 1
}

# Whether a command is a Python of a supported version. It has to run: a pyenv shim
# exists for versions that are not selected.
supported() {
  "$1" -c "import sys
sys.exit(not (3, $OLDEST_MINOR) <= sys.version_info[:2] <= (3, $NEWEST_MINOR))" \
    >/dev/null 2>&1
}

# Prints the interpreter to make the environment with.
choose_python() {
  if [[ -n "${PYTHON:-}" ]]; then
    "$PYTHON" -c "" >/dev/null 2>&1 ||
      fail "PYTHON=$PYTHON does not run; name an installed Python 3.$OLDEST_MINOR to 3.$NEWEST_MINOR"
    supported "$PYTHON" ||
      fail "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1), but TensorFlow 2.21 needs Python 3.$OLDEST_MINOR to 3.$NEWEST_MINOR"
    echo "$PYTHON"
    return
  fi
  local candidates=(python3) minor
  for ((minor = NEWEST_MINOR; minor >= OLDEST_MINOR; minor--)); do
    candidates+=("python3.$minor")
  done
  local candidate
  for candidate in "${candidates[@]}"; do
    if supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "there is no Python 3.$OLDEST_MINOR to 3.$NEWEST_MINOR, which TensorFlow 2.21 needs: install one, on Debian and Ubuntu with 'apt-get install python3 python3-venv', or name one as in 'PYTHON=/path/to/python3.12 make'"
}

# The real interpreter behind a command or an environment, and its version.
identity() {
  "$1" -c 'import os, sys
print(os.path.realpath(sys.executable), "%d.%d" % sys.version_info[:2])'
}

check_compiler() {
  local compiler="" candidate
  for candidate in "${CXX:-}" c++ g++; do
    if [[ -n "$candidate" ]] && command -v "$candidate" >/dev/null; then
      compiler="$candidate"
      break
    fi
  done
  [[ -n "$compiler" ]] ||
    fail "there is no C++ compiler: install one, on Debian and Ubuntu with 'apt-get install g++', or name one in the variable CXX"
  local scratch
  scratch="$(mktemp -d)"
  # Linked as well: GCC 8 has <filesystem> in a library of its own.
  if ! "$compiler" -std=c++17 -x c++ -o "$scratch/program" - >/dev/null 2>&1 <<'PROGRAM'; then
#include <charconv>
#include <filesystem>
#include <optional>
#include <string_view>
template <typename T>
constexpr int size_or_zero(std::optional<T> value) {
  if constexpr (sizeof(T) > 1) return value ? sizeof(T) : 0;
  return 0;
}
int main() { return std::filesystem::path("a").empty() + size_or_zero<int>({}); }
PROGRAM
    rm -rf "$scratch"
    fail "the C++ compiler '$compiler' cannot compile C++17: install a newer one, on Debian and Ubuntu with 'apt-get install g++' (GCC 9 or newer), or name one in the variable CXX"
  fi
  rm -rf "$scratch"
}

check_compiler

if [[ -z "${PYTHON:-}" ]] && supported "$VENV/bin/python"; then
  python="$VENV/bin/python"
else
  python="$(choose_python)"
fi
# The scripts in an environment hold its path.
wanted="$(identity "$python") in $PWD"
if [[ "$(cat "$VENV/made_with" 2>/dev/null)" != "$wanted" ]]; then
  "$python" -c "import ensurepip, venv" >/dev/null 2>&1 ||
    fail "$python cannot make environments: install its venv module, on Debian and Ubuntu with 'apt-get install $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')'"
  step "Making $VENV with $("$python" --version)"
  # By its real path: the link in the old environment is about to go.
  python="$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')"
  "$python" -m venv --clear "$VENV" || fail "'$python -m venv $VENV' failed; see above"
  echo "$wanted" >"$VENV/made_with"
fi

if ! cmp -s "$REQUIREMENTS" "$READY"; then
  step "Installing TensorFlow and tools into $VENV (some 2 GB; minutes)"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
    --requirement "$REQUIREMENTS" ||
    fail "pip could not install what $REQUIREMENTS lists; see above"
  cp "$REQUIREMENTS" "$READY"
fi
