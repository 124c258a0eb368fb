"""From a stranger's file to a verified row.

In: the file of an estimator. Out: findings of the rules, a bundle with its claims, and a verdict on them.
"""
