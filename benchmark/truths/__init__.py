"""What really happens without a sample, and what limits how well that can be known.

In: a task and a seed. Out: a `GroundTruth` with the effects of leaving out, by retraining, kept in the cache.
"""
