"""Leaderboard, page, figures and citations, and what guards them.

In: result files. Out: texts and pictures that are a pure function of them.
"""
