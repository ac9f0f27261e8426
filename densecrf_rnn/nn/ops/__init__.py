"""The torch operators, one per file: the operator, its fake implementation and its gradient.

Operators exchange kernels as plain tensors and numbers (`kernels`), without shared state, so any
thread may call them. CPU tensors are passed to the engines as NumPy views, image by image; tensors
on a device are passed to `device` in whole batches.
"""
