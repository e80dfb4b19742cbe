#!/bin/sh
# build.sh [object]: compiles the filter. The same clang makes the same object.
set -eu
cd "$(dirname "$0")"
out=${1:-filter.o}
source=$(cat build.sh filter.c *.h | sha256sum | cut -d ' ' -f 1)
"${CLANG:-clang}" -O2 -g -Wall -Wextra -fno-strict-aliasing -target bpf -mcpu=v3 \
	-fdebug-compilation-dir=. "-DSOURCE=\"$source\"" \
	-idirafter "/usr/include/$(uname -m)-linux-gnu" \
	-c filter.c -o "$out"
"${LLVM_STRIP:-llvm-strip}" -g "$out"
