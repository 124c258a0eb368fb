"""`python -m benchmark` is `loobench`."""

import sys

from benchmark.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
