"""FCN-8s with a CRF-RNN head: the networks, the data, the training and the tables of the paper.

Run it from the folder above: ``python -m fcn8s --help``. README.md beside this file says how.
"""
