// What the tests need of the operating system: environment variables, and this program run again.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

namespace tests {

inline void set_variable(const char* name, const std::string& value) {
#ifdef _WIN32
  _putenv_s(name, value.c_str());
#else
  setenv(name, value.c_str(), 1);
#endif
}

// The value of a variable; empty if it is not set.
inline std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

// Run a program with one argument and return its output; null if that failed. An emulator of a
// processor starts child processes without itself, so DENSECRF_RNN_EMULATOR is put in front.
inline std::FILE* open_child(const std::string& program, const std::string& argument) {
  const std::string command = "\"" + program + "\" " + argument;
#ifdef _WIN32
  return _popen(command.c_str(), "r");
#else
  return popen((variable("DENSECRF_RNN_EMULATOR") + " " + command).c_str(), "r");
#endif
}

// Return the exit status of the child; 0 is success.
inline int close_child(std::FILE* child) {
#ifdef _WIN32
  return _pclose(child);
#else
  return pclose(child);
#endif
}

}  // namespace tests
