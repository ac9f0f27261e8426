"""The torch operators, one per file: the operator, its fake implementation and its gradient.

Operators take and return each CRF kernel as plain tensors and numbers, laid out as kernels.py says,
and share no state, so any thread may call them. CPU tensors are passed to the engines as NumPy
views, image by image; tensors on a device are passed to device.py in whole batches.
"""
