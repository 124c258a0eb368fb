"""The command line: options in, texts and exit codes out.

A module for each command, whose slow imports wait for its call.
"""
