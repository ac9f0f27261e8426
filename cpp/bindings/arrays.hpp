// Checks dtype, shape and layout of NumPy arrays and returns pointers to their memory. The caller
// keeps the arrays alive: they are arguments of the call, or fields of immutable structs among its
// arguments.
#pragma once

#include <pybind11/numpy.h>

#include <initializer_list>
#include <string>

#include "fields.hpp"
#include "gil.hpp"

namespace bindings {

using Shape = std::initializer_list<std::int64_t>;

// Raise an error that names the array, what it should be and what it is.
template <typename T>
[[noreturn]] void reject(const Named& array, Shape shape) {
  std::string wanted = "a C-contiguous array of " + std::string(py::str(py::dtype::of<T>())) + " [";
  for (const std::int64_t n : shape) wanted += std::to_string(n) + ", ";
  wanted.replace(wanted.size() - 2, 2, "]");
  if (py::isinstance<py::array>(array.value)) {
    wanted += ", not of " + std::string(py::str(array.value.attr("dtype"))) + " with shape " +
              std::string(py::str(array.value.attr("shape")));
  }
  array.fail(wanted);
}

// Return the memory of an array that is only read.
template <typename T>
T* data(const Named& named, Shape shape) {
  using Array = py::array_t<T, py::array::c_style>;
  if (!Array::check_(named.value)) reject<T>(named, shape);
  const auto array = py::reinterpret_borrow<Array>(named.value);
  bool same = array.ndim() == py::ssize_t(shape.size());
  py::ssize_t axis = 0;
  for (const std::int64_t length : shape) same = same && array.shape(axis++) == length;
  if (!same) reject<T>(named, shape);
  return const_cast<T*>(array.data());
}

// Return the memory of an array that is written.
template <typename T>
T* room(const Named& named, Shape shape) {
  T* const memory = data<T>(named, shape);
  named.require(py::reinterpret_borrow<py::array>(named.value).writeable(), "writeable");
  return memory;
}

// Return the memory of an array that is only read, or null for None.
template <typename T>
T* optional_data(const Named& named, Shape shape) {
  return named.is_none() ? nullptr : data<T>(named, shape);
}

// Return the length of an array along an axis.
inline std::int64_t length(const Named& named, int axis) {
  named.require(py::isinstance<py::array>(named.value), "a NumPy array");
  const auto array = py::reinterpret_borrow<py::array>(named.value);
  if (array.ndim() <= axis) named.fail("an array of more than " + std::to_string(axis) + " axes");
  return array.shape(axis);
}

// Call body(float()) or body(double()), by the dtype of an array.
template <class Body>
auto with_dtype(const Named& named, const Body& body) {
  if (py::isinstance<py::array_t<float>>(named.value)) return body(float());
  named.require(py::isinstance<py::array_t<double>>(named.value), "float32 or float64");
  return body(double());
}

}  // namespace bindings
