"""One estimator on one task: blind, timed, and kept as soon as it is done.

In: a `Plan` of tasks, seeds and estimators. Out: cells in result files, each from task, truth, answer and scores.
"""
