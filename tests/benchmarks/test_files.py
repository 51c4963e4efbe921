import json
import math

import pytest

from benchmarks.files import read_own, write_json, write_text
from benchmarks.results import read_result
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
