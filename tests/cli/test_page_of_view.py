"""The console blocks of docs/view.md are what the commands print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer
from typer.testing import CliRunner

from peft_fishdip.cli.convert import convert
from peft_fishdip.cli.view import view

PAGE = Path(__file__).parents[2] / "docs" / "view.md"

app = typer.Typer()
app.command()(convert)
app.command()(view)


def test_commands_print_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text(encoding="utf-8")
    first = re.search(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(compile(first[1], str(PAGE), "exec"), {})
    console = "".join(re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    runs = re.findall(r"^\$ fishdip (.*)\n((?:[^$].*\n)*)", console, re.MULTILINE)
    assert [line.split()[0] for line, _ in runs] == ["view", "convert", "convert"]
    for line, printed in runs:
        result = CliRunner().invoke(app, shlex.split(line))
        assert result.exit_code == 0, result.output
        assert result.stderr + result.stdout == printed


def test_options_of_the_page_exist():
    named = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", PAGE.read_text(encoding="utf-8")))
    known = {
        option
        for command in typer.main.get_command(app).commands.values()
        for parameter in command.params
        for option in parameter.opts
    }
    assert named <= known
