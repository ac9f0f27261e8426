#!/bin/sh
# Usage: shares_no_code.sh ISA NM OBJECT...
# Of a function that several objects define weakly the linker keeps one copy for all. An object that
# was compiled for one instruction set must define none outside its own namespace: the copy kept might
# be one that an older processor cannot run. (`DW.ref.` is a pointer, not code.)
isa=$1 nm=$2
shift 2
symbols=$("$nm" --defined-only "$@") || exit 1
shared=$(echo "$symbols" | grep -E ' [WVu] ' | grep -v -e "4dcrf${#isa}${isa}" -e ' DW\.ref\.')
[ -z "$shared" ] || { printf 'shared with other objects:\n%s\n' "$shared"; exit 1; }
