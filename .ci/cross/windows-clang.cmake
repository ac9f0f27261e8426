# The loops for AVX2 and AVX-512 too, which GCC does not compile for Windows.
# Debian and Ubuntu: apt-get install clang lld g++-mingw-w64-x86-64-posix wine64
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR AMD64)
set(CMAKE_CXX_COMPILER clang++)
set(CMAKE_CXX_COMPILER_TARGET x86_64-w64-mingw32)
set(CMAKE_EXE_LINKER_FLAGS_INIT "-static -fuse-ld=lld")
find_program(CMAKE_CROSSCOMPILING_EMULATOR NAMES wine64 wine PATHS /usr/lib/wine)
