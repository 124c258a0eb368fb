"""Many runs at once, exactly.

In: a problem and, for each run, the samples that it keeps. Out: the final states of all runs, or what is read off them.
"""
