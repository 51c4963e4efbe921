"""The notebooks are committed without outputs, run from top to bottom, and what they tell is so."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {path.stem: path for path in (ROOT / "notebooks").glob("*.ipynb")}
QUIET = ("TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS", "PYTHONWARNINGS", "MPLBACKEND")
"""Settings of the tests that a reader does not have."""


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cells: list[Any], stream: str) -> str:
    return "".join(
        output.text
        for cell in cells
        for output in cell.outputs
        if output.output_type == "stream" and output.name == stream
    )


def shown(cells: list[Any], kind: str) -> list[str]:
    """What cells displayed, of one MIME type."""
    return [output.data[kind] for cell in cells for output in cell.outputs if kind in output.get("data", {})]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a copy of a notebook, as a reader of the repository does, and then evaluates facts in its kernel."""

    def run(name: str, facts: str) -> tuple[list[Any], Any]:
        folder = tmp_path / "notebooks"
        folder.mkdir()
        (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
        for variable in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
        kernel = {key: value for key, value in os.environ.items() if key not in QUIET}
        kernel |= {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [kernel.get("PYTHONPATH")])]),
        }
        notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
        asking = nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({facts}))")
        notebook.cells.append(asking)
        NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute(env=kernel)
        *cells, asked = code_cells(notebook)
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        assert not re.search(r"peft_fishdip/.*Warning|benchmarks/.*Warning|Traceback", text_of(cells, "stderr"))
        return cells, json.loads(text_of([asked], "stdout"))

    return run


def test_there_are_three() -> None:
    assert sorted(NOTEBOOKS) == ["compare", "compose", "quickstart"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_committed_as_it_was_written(name: str) -> None:
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code_cells(notebook))
    source = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"(?<![\w.~])/(home|root|tmp|Users|work|content)/", source)
    links = re.findall(r"\]\((?!https:)([^)#]+)", source)
    assert all((NOTEBOOKS[name].parent / link).is_file() for link in links)


@pytest.mark.slow
def test_quickstart_learns_and_loses_no_bit(run: Any) -> None:
    cells, facts = run(
        "quickstart",
        "dict(before=before['f1'], after=after['f1'], steps=[update.step for update in callback.updates],"
        "     same=[same_after_loading, same_when_disabled, same_when_merged, same_when_unmerged, same_when_plain],"
        "     share=sum(map(len, mask.values())) / sum(sizes.values()),"
        "     cross=shares[4:8].nanmean().item(), forward=shares[-2:].mean().item(),"
        "     adapter=(adapter / 'adapter_model.safetensors').stat().st_size,"
        "     base=(Path(MODEL) / 'model.safetensors').stat().st_size)",
    )
    assert facts["after"] > 0.7 > 0.1 > facts["before"]
    assert facts["steps"] == [0, 50, 100]
    assert facts["same"] == [True] * 5
    assert 0.0499 < facts["share"] <= 0.05
    assert facts["cross"] > 2 * facts["forward"]
    assert facts["forward"] < 0.05
    assert facts["adapter"] < facts["base"] / 2
    assert f"F1 before {facts['before']:.2f}, after {facts['after']:.2f}" in text_of(cells, "stdout")
    assert len(shown(cells, "image/png")) == 1
    [card] = shown(cells, "text/markdown")
    assert "| mask updates | 3, one every 50 optimizer steps |" in card
    assert 'dtype="float32"' in card


@pytest.mark.slow
def test_compose_adds_up(run: Any) -> None:
    _, facts = run(
        "compose",
        "dict(table=table, largest=largest, seconds=[unmerged, merged],"
        "     same=[same_when_summed, same_after_loading, same_when_merged, same_when_unmerged, same_when_unloaded],"
        "     adapters=list(model.peft_config), left=list(loaded.peft_config))",
    )
    table = facts["table"]
    assert max(table["base"]) < 0.1
    assert table["disabled"] == table["base"]
    assert table["people"][0] > 0.6
    assert table["people"][1] < 0.1
    assert table["people again"] == table["people"]
    assert table["people + places"][0] > 0.4  # about 0.5; the last bits of sums differ from machine to machine
    assert table["people + places"][1] > 0.6
    assert sum(table["places alone"]) < sum(table["people + places"]) / 2
    assert facts["same"] == [True] * 5
    assert facts["largest"] < 1e-3
    assert facts["adapters"] == ["people", "places", "sum"]


@pytest.mark.slow
def test_compare_reports_all_methods_and_those_of_one_s_own(run: Any) -> None:
    cells, facts = run(
        "compare",
        "dict(status=status, runs={r['run_info']['experiment_name']: r['train_info']['metrics'][-1]['test f1']"
        "                          for r in read_results(output)})",
    )
    assert facts["status"] == 0
    three = ["fishdip/density-5", "full/adamw", "lora/rank-8"]
    assert sorted(facts["runs"]) == sorted([*three, "fishdip/dense", "lora/rank-2"])
    assert max(facts["runs"].values()) > 0.5
    first, second = shown(cells, "text/markdown")
    assert [first.count(f"| {method} ") for method in three] == [2] * 3  # once in each table: score, test loss
    assert [first.count(f"| {method} ") for method in facts["runs"]].count(0) == 2
    assert [second.count(f"| {method} ") for method in facts["runs"]] == [2] * 5
    pictures = shown(cells, "image/svg+xml")
    assert len(pictures) == 5
    assert all(word in pictures[-1] for word in facts["runs"])
