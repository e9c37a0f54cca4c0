"""What the tests of language models start from; other tests have fixtures of their own."""

import pytest
from helpers.files import sentences
from helpers.language_models import save_teacher


@pytest.fixture
def teacher(tmp_path):
    return save_teacher(tmp_path / "teacher")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(text for text, _ in sentences(100)))
    return path
