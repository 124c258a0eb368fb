"""The command line: options in, texts and exit codes out. What is slow to import is imported inside a command."""
