"""What is measured beside the scores: settings, published figures, speed, this machine.

In: tasks and estimators. Out: tables and pages; nothing of it enters a score.
"""
