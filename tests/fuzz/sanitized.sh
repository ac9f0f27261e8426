#!/bin/sh
# Run the fuzzer with the native module under sanitizers, from the root of the repository:
#   tests/fuzz/sanitized.sh address,undefined --calls 1000000 --seed 1
#   tests/fuzz/sanitized.sh thread --calls 10000 --seed 1
# PYTHON names the interpreter, which needs pybind11 (default python3). The layer is left out:
# torch itself does not run under the sanitizers' runtime libraries.
set -eu
sanitize=$1
shift
python=$(command -v "${PYTHON:-python3}")
case $python in
  /*) ;;
  *) python="$PWD/$python" ;; # CMake ignores a relative path and takes another Python
esac
build="build/fuzz-${sanitize%%,*}"
site="$build/site"
cmake -S . -B "$build" -DDENSECRF_RNN_NATIVE=ON -DDENSECRF_RNN_CUDA=OFF -DDENSECRF_RNN_SANITIZE="$sanitize" \
  -DPython_EXECUTABLE="$python" >/dev/null
cmake --build "$build" -j2 >/dev/null
mkdir -p "$site"
cp -R densecrf_rnn "$site"
rm -f "$site"/densecrf_rnn/*.so
cmake --install "$build" --prefix "$site" >/dev/null
case $sanitize in
  thread) libraries=libtsan.so ;;
  *) libraries="libasan.so libubsan.so" ;;
esac
preload=
for library in $libraries; do
  preload="$preload $(${CXX:-c++} -print-file-name="$library")"
done
# Python and Numba keep memory until the process ends, so leaks are found by resident memory.
export ASAN_OPTIONS="detect_leaks=0:malloc_fill_byte=255:max_malloc_fill_size=1000000000"
export TSAN_OPTIONS="halt_on_error=1:report_bugs=1:ignore_noninstrumented_modules=1"
export PYTHONPATH="$PWD" PYTHONMALLOC=malloc
export LD_PRELOAD="${preload# }"
# Python finds modules in the current folder first: here the package with the sanitized module, at
# the root of the repository that with the module of an editable install.
cd "$site"
"$python" -c '
import os
from densecrf_rnn import _cpu, engines
assert _cpu.__file__.startswith(os.getcwd()), _cpu.__file__
raise SystemExit(engines.why_unavailable("cpu"))'
exec "$python" -m tests.fuzz --no-torch "$@"
