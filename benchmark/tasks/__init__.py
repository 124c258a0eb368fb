"""What is trained on what, and what is asked about it.

In: the name of a task and a seed. Out: a `Problem`, from data whose digest is checked and streams named by what they draw.
"""
