"""Which code a run records."""

import subprocess

from ckd_trainer.utils.versions import source_commit


def test_commit_of_a_checkout_but_not_of_a_repository_around_the_package(tmp_path):
    def git(*words):
        command = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    installed = tmp_path / "lib" / "site-packages"
    installed.mkdir(parents=True)
    assert source_commit(tmp_path) is None
    git("init")
    git("commit", "--allow-empty", "-m", "theirs")
    assert source_commit(tmp_path) == git("rev-parse", "HEAD")
    assert source_commit(installed) is None
