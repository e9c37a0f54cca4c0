"""The commands that train, as modules of the package, because a wheel does not contain the run_*.py scripts."""
