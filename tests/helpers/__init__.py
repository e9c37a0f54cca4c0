"""Code shared by several test files, one idea per file. chaos.py, fuzz.py and small_parts.py are also programs."""

import pytest

# Assertions here then report as much as those in tests.
pytest.register_assert_rewrite("helpers.answers", "helpers.launching")
