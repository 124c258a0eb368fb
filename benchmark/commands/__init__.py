"""The command line: options in, texts and exit codes out; a module for each command, whose slow imports wait for its call."""
