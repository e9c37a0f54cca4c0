"""The commands. Those that train are here because a wheel does not contain the run_*.py scripts."""
