"""The harness of loobench: data, training, exact leave-one-out truth, scores and the leaderboard."""

__version__ = "0.10.0"
PROTOCOL = "1.1"  # part of every task's digest: raise it when any number may change
