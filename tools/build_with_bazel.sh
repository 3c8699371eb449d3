#!/bin/bash
# Builds the op library with Bazel and prints its path.
#
#   tools/build_with_bazel.sh [PYTHON]
#
# PYTHON is the interpreter whose TensorFlow the library is for; python3 if absent.

set -euo pipefail

fail() {
  echo "$0: $1" >&2
  exit 1
}

python="$(command -v "${1:-python3}")" || fail "there is no Python '${1:-python3}'"
# Bazel looks from another folder. The link itself, not what it points to, is
# what makes a virtual environment.
[[ "$python" == /* ]] || python="$PWD/$python"
"$python" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("tensorflow"))' ||
  fail "'$python' has no TensorFlow; install it with '$python -m pip install tensorflow'"
command -v bazel >/dev/null ||
  fail "there is no bazel; on Debian install bazel-bootstrap, bazel-platforms, bazel-rules-java and bazel-rules-proto"

config=()
# So Debian's build of Bazel calls itself.
if [[ "$(bazel --version)" == "bazel no_version" ]]; then
  [[ -d /usr/share/bazel/tools/platforms && -d /usr/share/bazel/rules/java &&
    -d /usr/share/bazel/rules/proto ]] ||
    fail "Debian's bazel also needs the packages bazel-platforms, bazel-rules-java and bazel-rules-proto"
  config=(--config=debian)
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# --batch: no server, with its memory, stays behind.
bazel --batch --host_jvm_args=-Xmx2g build ${config[@]+"${config[@]}"} \
  --repo_env=TF_DWGRAD_PYTHON="$python" --jobs=2 //:_tf_dwgrad_ops.so >&2
readlink -f bazel-bin/_tf_dwgrad_ops.so
