#!/bin/sh
# Usage: shares_no_code.sh ISA NM OBJECT...
# Check that objects compiled for one instruction set define no weak functions outside their own
# namespace. The linker keeps a single copy of a weak function for the whole program, which might be
# one that an older processor cannot run. (`DW.ref.` is a pointer, not code.)
isa=$1 nm=$2
shift 2
symbols=$("$nm" --defined-only "$@") || exit 1
shared=$(echo "$symbols" | grep -E ' [WVu] ' | grep -v -e "4dcrf${#isa}${isa}" -e ' DW\.ref\.')
[ -z "$shared" ] || { printf 'shared with other objects:\n%s\n' "$shared"; exit 1; }
