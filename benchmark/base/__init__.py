"""What everything else may use: errors, texts, files, streams of random numbers, this machine.

It knows nothing of models or tasks, and imports nothing else of the harness.
"""
