"""What several test files share, each file one idea. chaos.py, fuzz.py and small_parts.py are programs as well."""

import pytest

# So that an assertion that fails here says as much as one of a test.
pytest.register_assert_rewrite("helpers.answers", "helpers.launching")
