#!/bin/sh
# What ptxas says of the GPU kernels: the specialised ones keep all they compute
# in registers, without spills or local memory; the general ones are only listed.
# Usage: NVCC=nvcc check_ptxas.sh INCLUDE_DIRECTORY ARCHITECTURE FILE.cu...
set -eu

include=$1
architecture=$2
shift 2
report=$(mktemp -d)
trap 'rm -rf "$report"' EXIT

for source in "$@"; do
  "${NVCC:-nvcc}" -std=c++17 -O3 -I"$include" -arch="$architecture" \
    -Xptxas -v -cubin -o "$report/cubin" "$source" 2>>"$report/log" || {
    cat "$report/log"
    exit 1
  }
done

c++filt <"$report/log" | awk '
  /Compiling entry function/ {
    split($0, part, "\047")
    kernel = part[2]
    sub(/^void /, "", kernel)
    gsub(/tf_dwgrad::/, "", kernel)
    sub(/>\(.*/, ">", kernel)
  }
  /bytes stack frame/ {
    for (i = 1; i < NF; ++i) {
      if ($(i + 1) == "bytes" && $(i + 2) == "stack") stack = $i + 0
      if ($(i + 2) == "spill" && $(i + 3) ~ /^stores/) spills = $i + 0
    }
  }
  /Used [0-9]+ registers/ {
    match($0, /Used [0-9]+/)
    registers = substr($0, RSTART + 5, RLENGTH - 5)
    printf "%-60s %3d registers, %d bytes of stack, %d of spills\n",
           kernel, registers, stack, spills
    ++kernels
    if (kernel !~ /^(GatherGeneral|FilterGradientBy(Channel|Pixel))</ &&
        stack + spills > 0) {
      print "FAILED: " kernel " does not fit its registers"
      ++failures
    }
  }
  END {
    if (kernels == 0) print "FAILED: no kernels found"
    exit failures > 0 || kernels == 0
  }'
