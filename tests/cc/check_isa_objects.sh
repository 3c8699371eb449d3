#!/usr/bin/env bash
# Usage: check_isa_objects.sh OBJECT...
#
# A function in an instruction-set object that the linker may merge with another
# object's copy, or code that runs while the library is loaded, would execute on
# CPUs without that instruction set. Each object may define its kernel table and
# nothing else that others can see.
set -euo pipefail
status=0
for object in "$@"; do
  visible=$(nm --defined-only --extern-only "$object" | awk 'NF { print $2, $3 }' |
    grep -vE '^[DR] _ZN9tf_dwgrad[0-9]+k[A-Za-z0-9]+KernelsE$' || true)
  if [ -n "$visible" ]; then
    echo "$object defines more than its kernel table:" $visible
    status=1
  fi
  if readelf -SW "$object" | grep -qE '\.(init_array|ctors)'; then
    echo "$object runs code while the library is loaded"
    status=1
  fi
done
exit $status
