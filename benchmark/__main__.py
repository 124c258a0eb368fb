"""`python -m benchmark` is `loobench`."""

import sys

from benchmark.cli import main

sys.exit(main())
