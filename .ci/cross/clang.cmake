# Debian and Ubuntu: apt-get install clang
set(CMAKE_CXX_COMPILER clang++)
