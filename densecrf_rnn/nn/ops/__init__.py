"""The torch operators, one a file: the operator, its fake kernel and its gradient.

Kernels travel between operators as plain tensors and numbers (`kernels`), so nothing is cached and
any thread may call. Tensors on a CPU reach the engines as NumPy views, image by image; tensors on a
device go to `nn/device.py` as whole batches.
"""
