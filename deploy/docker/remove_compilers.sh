#!/bin/sh
# Purge what builds programs from a Debian or Ubuntu image, and fail if any of it is left: whoever gets in finds no
# compiler. Libraries that programs load stay. What TensorRT compiles kernels with is a library, too.
set -eu
packages=$(dpkg-query --show --showformat='${binary:Package} ${db:Status-Status}\n' | awk '$2 == "installed" {print $1}' |
  grep -E '^(gcc|g\+\+|cpp|clang|llvm|gfortran|binutils|make|cmake|ninja-build|git|build-essential|dpkg-dev|cuda-nvcc)(-[a-z0-9.-]+)?(:[a-z0-9]+)?$' |
  grep -vE '^gcc-[0-9]+-base') || true
if [ -n "$packages" ]; then
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get purge -y $packages >/dev/null
fi
for program in cc gcc g++ c++ clang cpp ld as make cmake nvcc git; do
  if found=$(command -v "$program"); then
    echo "remove_compilers: $found is left" >&2
    exit 1
  fi
done
