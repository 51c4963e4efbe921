import json
import math
import subprocess

import pytest

from benchmarks.files import read_own, write_json, write_text
from benchmarks.results import git_revision, read_result, short_revision
from benchmarks.settings import SettingsError


def test_what_is_no_finite_number_is_null(tmp_path):
    write_json(tmp_path / "a" / "x.json", {"loss": math.nan, "rows": [{"y": math.inf}, (1.5, -math.inf)], "s": {2, 1}})
    text = (tmp_path / "a" / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"loss": None, "rows": [{"y": None}, [1.5, None]], "s": [1, 2]}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.json"]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"file cannot be a folder: .*; choose another"):
        write_text(tmp_path / "file" / "x", "text")
    (tmp_path / "folder" / "x").mkdir(parents=True)
    with pytest.raises(SettingsError, match="folder/x cannot be written: "):
        write_text(tmp_path / "folder" / "x", "text")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"run_info": {}, "train_info": []}'])
def test_a_broken_result_is_named_with_what_to_do(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"x\.json .*; delete this file"):
        read_result(path)


def test_any_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"x\.json cannot be read: .*; delete this file"):
        read_own(tmp_path / "x.json")


def test_the_revision_tells_whether_the_code_differs_from_it(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *who, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert git_revision(tmp_path) == "unknown"
    git("init")
    (tmp_path / "package").mkdir()
    code, report = tmp_path / "package" / "code.py", tmp_path / "report.json"
    for path in (code, report):
        path.write_text("1", encoding="utf-8")
    git("add", ".")
    git("commit", "-m", "first")
    head = git("rev-parse", "HEAD")
    report.write_text("2", encoding="utf-8")
    for folder in (tmp_path, code.parent):
        git_revision.cache_clear()
        assert git_revision(folder) == head
    code.write_text("2", encoding="utf-8")
    for folder in (tmp_path, code.parent):
        git_revision.cache_clear()
        assert git_revision(folder) == f"{head}+"
    assert (short_revision(head), short_revision(f"{head}+")) == (head[:12], f"{head[:12]}+")
    git_revision.cache_clear()
