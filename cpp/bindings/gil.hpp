// Releases and takes Python's global interpreter lock, also while the interpreter exits.
//
// A daemon thread that asks for the lock while the interpreter exits never gets it. Until Python
// 3.13 the interpreter then ends the thread by pthread_exit(), which glibc implements as an
// exception. Passing a noexcept destructor, it would end the process with "terminate called". So
// the thread sleeps until the process ends, as Python 3.14 makes it do.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

#ifdef __GLIBCXX__
#include <cxxabi.h>
#endif

#include "../cpu/pool.hpp"

namespace bindings {

namespace py = pybind11;

// Call `take`, which takes the lock; never return if the interpreter is exiting.
template <class Take>
auto take_lock(const Take& take) {
#ifdef __GLIBCXX__
  try {
    return take();
  } catch (abi::__forced_unwind&) {
    // Leaving this block would resume the exit of the thread, or abort.
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
#else
  return take();
#endif
}

// Holds the lock while an object of this class exists.
class Locked {
 public:
  Locked() : state_(take_lock([] { return PyGILState_Ensure(); })) {}
  ~Locked() { PyGILState_Release(state_); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

 private:
  PyGILState_STATE state_;
};

// Releases the lock while an object of this class exists.
class Released {
 public:
  Released() : thread_(PyEval_SaveThread()) {}
  ~Released() {
    take_lock([this] { PyEval_RestoreThread(thread_); });
  }
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;

 private:
  PyThreadState* thread_;
};

// The same; Ctrl-C still interrupts the native call.
class Unlocked {
 public:
  Unlocked() : check_(&raise_pending_signal) {}

 private:
  static void raise_pending_signal() {
    const Locked locked;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }

  Released released_;
  dcrf::InterruptCheck check_;
};

}  // namespace bindings
