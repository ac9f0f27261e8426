"""`python -m densecrf_rnn`, the same as the console script `densecrf-rnn`."""

import sys

from .cli import main

sys.exit(main())
