// Reads Python structs (dataclasses and named tuples of densecrf_rnn) by field name, for all
// bindings. A missing field raises AttributeError, whose message names the struct and the field.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include <generated/limits.hpp>  // written by CMake from densecrf_rnn/_limits.py

namespace bindings {

namespace py = pybind11;

// A value passed from Python, and the name of its argument or field for error messages.
struct __attribute__((visibility("hidden"))) Named {
  py::object value;
  const char* name;

  bool is_none() const { return value.is_none(); }
  [[noreturn]] void fail(const std::string& wanted) const {
    throw std::invalid_argument(std::string("native code: ") + name + " must be " + wanted);
  }
  void require(bool holds, const char* wanted) const {
    if (!holds) fail(wanted);
  }
};

// Convert a Python value to T.
template <typename T>
T as(const Named& named) {
  return named.value.cast<T>();
}

// Return the field `name` of a Python object. `key` is the name as an interned Python string, which
// makes the look-up as fast as in Python.
inline Named field(const py::handle& of, PyObject* key, const char* name) {
  PyObject* const found = PyObject_GetAttr(of.ptr(), key);
  if (found == nullptr) throw py::error_already_set();
  return {py::reinterpret_steal<py::object>(found), name};
}

#define DCRF_INTERNED(name)                                        \
  [] {                                                             \
    static PyObject* const key = PyUnicode_InternFromString(name); \
    return key;                                                    \
  }()
// The field `name` of the Python object `of`, as a Named.
#define DCRF_FIELD(of, name) ::bindings::field(of, DCRF_INTERNED(#name), #name)
// The function argument `name`, as a Named.
#define DCRF_ARGUMENT(name) \
  ::bindings::Named { name, #name }

// Assign a Python number to `to`; if `to` is a pointer, the number is the address.
template <typename T>
void read(const Named& named, T& to) {
  if constexpr (std::is_pointer_v<T>)
    to = reinterpret_cast<T>(as<std::uintptr_t>(named));
  else
    to = as<T>(named);
}

// DCRF_READ(of, to, a, b, ...): assign the fields a, b, ... of the Python object `of` to the
// members of `to` that have the same names; at most eight.
#define DCRF_READ_1(of, to, name) ::bindings::read(DCRF_FIELD(of, name), to.name);
#define DCRF_READ_2(of, to, name, ...) DCRF_READ_1(of, to, name) DCRF_READ_1(of, to, __VA_ARGS__)
#define DCRF_READ_3(of, to, name, ...) DCRF_READ_1(of, to, name) DCRF_READ_2(of, to, __VA_ARGS__)
#define DCRF_READ_4(of, to, name, ...) DCRF_READ_1(of, to, name) DCRF_READ_3(of, to, __VA_ARGS__)
#define DCRF_READ_5(of, to, name, ...) DCRF_READ_1(of, to, name) DCRF_READ_4(of, to, __VA_ARGS__)
#define DCRF_READ_6(of, to, name, ...) DCRF_READ_1(of, to, name) DCRF_READ_5(of, to, __VA_ARGS__)
#define DCRF_READ_7(of, to, name, ...) DCRF_READ_1(of, to, name) DCRF_READ_6(of, to, __VA_ARGS__)
#define DCRF_READ_8(of, to, name, ...) DCRF_READ_1(of, to, name) DCRF_READ_7(of, to, __VA_ARGS__)
#define DCRF_PICK(a, b, c, d, e, f, g, h, picked, ...) picked
#define DCRF_READ(of, to, ...)                                                            \
  DCRF_PICK(__VA_ARGS__, DCRF_READ_8, DCRF_READ_7, DCRF_READ_6, DCRF_READ_5, DCRF_READ_4, \
            DCRF_READ_3, DCRF_READ_2, DCRF_READ_1, )                                      \
  (of, to, __VA_ARGS__)

// Add the functions of each file to the module densecrf_rnn._cpu.
void bind_lattice(py::module_& m);     // lattice.cpp
void bind_mean_field(py::module_& m);  // mean_field.cpp
void bind_gibbs(py::module_& m);       // gibbs.cpp

// Return the constants of densecrf_rnn/_limits.py with which this module was compiled, by name.
inline py::dict limits() {
  py::dict out;
#define DCRF_ENTRY(name, value) out[#name] = dcrf::value;
  DCRF_LIMITS(DCRF_ENTRY)
#undef DCRF_ENTRY
  return out;
}

}  // namespace bindings
