"""Fuzzing: random calls, checked against an independent oracle and by invariances.

``python -m tests.fuzz --calls 100000 --seed 0`` from the root of the repository.
"""
