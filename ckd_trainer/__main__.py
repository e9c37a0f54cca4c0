"""`python -m ckd_trainer` is the command `ckd-trainer`, for where the command is not in the path."""

import sys

from ckd_trainer.cli import main

if __name__ == "__main__":
    sys.argv[0] = "ckd-trainer"  # what the record of a run shows as its command; it would be __main__.py
    main()
