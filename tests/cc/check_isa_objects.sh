#!/usr/bin/env bash
# Usage: [NM=nm] [READELF=readelf] check_isa_objects.sh OBJECT...
#
# A function in an instruction-set object that the linker may merge with another
# object's copy, or code that runs while the library is loaded, would execute on
# CPUs without that instruction set. Each object may define its kernel table and
# nothing else that others can see, and may ask for C functions only: one of the
# standard library's templates would be such a copy in another build type.
#
# A function of a few instructions belongs to an innermost loop, into which the
# compiler did not inline it. Such calls can double a kernel's time: it should be
# always_inline.
set -euo pipefail

[ $# -gt 0 ] || {
  echo "no objects to check"
  exit 1
}
status=0
complain() {
  echo "$object $1"
  status=1
}
# One name a line, for messages.
in_a_row() {
  tr '\n' ' ' <<<"$1"
}

for object in "$@"; do
  # Apart from awk, so that the failure of a tool that cannot read the object is
  # one of this script.
  symbols=$("${NM:-nm}" "$object")
  sections=$("${READELF:-readelf}" -SW "$object")

  # A line is [address] type name. Capitals but N, which is for debuggers, are
  # visible to others; u is a unique global, v and w are weak, i is resolved while
  # the library is loaded.
  tables=$(awk 'NF == 3 && $2 ~ /^[DR]$/ &&
                $3 ~ /^_ZN9tf_dwgrad[0-9]+k[A-Za-z0-9]+KernelsE$/ { print $3 }' \
    <<<"$symbols")
  others=$(awk 'NF == 3 && ($2 ~ /^[A-MO-Z]$/ || $2 ~ /^[uvwi]$/) { print $3 }' \
    <<<"$symbols" | grep -vxF -- "$tables" || true)
  cplusplus=$(awk 'NF == 2 && $2 ~ /^_Z/ { print $2 }' <<<"$symbols")

  # [address] size type name; sizes are hexadecimal and equally long.
  tiny=$("${NM:-nm}" -S "$object" |
    awk 'NF == 4 && $3 == "t" && $2 < "0000000000000020" { print $4 }')

  [ "$(wc -l <<<"$tables")" = 1 ] && [ -n "$tables" ] ||
    complain "does not define one kernel table: $(in_a_row "$tables")"
  [ -z "$others" ] ||
    complain "defines more than its kernel table: $(in_a_row "$others")"
  [ -z "$cplusplus" ] ||
    complain "needs C++ functions of other objects: $(in_a_row "$cplusplus")"
  [ -z "$tiny" ] ||
    complain "calls functions of a few instructions: $(in_a_row "$tiny")"
  ! grep -qE '[ .](preinit_array|init_array|ctors|init)\b' <<<"$sections" ||
    complain "runs code while the library is loaded"
done
exit $status
