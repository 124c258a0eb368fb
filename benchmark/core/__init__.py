"""A model, a training step and a run, and the tools that an estimator is built from.

In: a `Problem` (model, optimiser, samples, batches, initial parameters). Out: a step, its derivatives and solves, and the
`Trajectory` of states that estimators see.
"""
