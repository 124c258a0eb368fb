"""From effects to numbers, and how sure they are.

In: estimated and true effects (K, Q). Out: scores, the files that keep them, and tables over tasks with their intervals.
"""
