// Python structs (dataclasses and named tuples of densecrf_rnn) whose fields are read by name. A
// field that the struct lacks raises AttributeError, which names both.
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

// A value that Python passed and the name of the argument or field, for messages.
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

template <typename T>
T as(const Named& named) {
  return named.value.cast<T>();
}

// `key` is the name as an interned Python string, which makes the look-up as cheap as Python's.
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
// The field `name` of the Python object `of`.
#define DCRF_FIELD(of, name) ::bindings::field(of, DCRF_INTERNED(#name), #name)
// The argument of that name.
#define DCRF_ARGUMENT(name) \
  ::bindings::Named { name, #name }

// Assign a field to a number, or an address to a pointer.
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

// The parts of the module densecrf_rnn._cpu.
void bind_lattice(py::module_& m);     // lattice.cpp
void bind_mean_field(py::module_& m);  // mean_field.cpp
void bind_gibbs(py::module_& m);       // gibbs.cpp

// What Python and this module must agree on, as it was compiled.
inline py::dict limits() {
  py::dict out;
#define DCRF_ENTRY(name, value) out[#name] = dcrf::value;
  DCRF_LIMITS(DCRF_ENTRY)
#undef DCRF_ENTRY
  return out;
}

}  // namespace bindings
