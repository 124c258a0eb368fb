"""Strangers' code in a process without files, network or memory of anything else.

In: the source of an estimator and a run. Out: its answer, its seconds, memory and counts, all taken from outside.
"""
