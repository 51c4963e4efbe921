"""A save that is cut short, a full disk, a folder that cannot be written: the last good adapter still loads."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import resource
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from ..support.models import bert_classifier, classifier_examples, randomise, tuned

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def adapter(masks: int, density: float = 0.05) -> Any:
    """A trained adapter; its size depends on the number of masks it has been through."""
    model = tuned(bert_classifier(), density=density)
    for number in range(masks):
        model.base_model.update_mask(classifier_examples(9)[number : number + 3])
        randomise(model, seed=number)
    return model


def same(a: Any, b: Any) -> bool:
    """Whether mask and deltas are the same, bit by bit."""
    first, second = a.base_model, b.base_model
    return all(torch.equal(mask, second.mask()[name]) for name, mask in first.mask().items()) and all(
        torch.equal(found[0], second.delta()[name][0]) and torch.equal(found[1], second.delta()[name][1])
        for name, found in first.delta().items()
    )


def load(folder: Path) -> Any:
    return PeftModel.from_pretrained(bert_classifier(), str(folder))


def in_child(function: Callable[..., None], *args: Any) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=function, args=args)
    process.start()
    return process


def save_for_ever(folder: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    models = [adapter(1), adapter(3)]
    (Path(folder) / "ready").touch()
    while True:
        for model in models:
            model.save_pretrained(folder)


def test_killed_at_twenty_moments_the_last_good_adapter_loads(tmp_path: Path) -> None:
    models = [adapter(1), adapter(3)]
    generator = random.Random(0)
    models[0].save_pretrained(str(tmp_path))
    seen = set()
    for _ in range(20):
        process = in_child(save_for_ever, str(tmp_path))
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < deadline
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.1))
        process.kill()
        process.join()
        (tmp_path / "ready").unlink()
        loaded = load(tmp_path)
        assert same(loaded, models[0]) or same(loaded, models[1])
        seen.add(same(loaded, models[0]))
    models[1].save_pretrained(str(tmp_path))
    assert same(load(tmp_path), models[1])


@pytest.mark.parametrize(("old", "new"), [(1, 3), (3, 1), (2, 2)])
def test_new_tensors_beside_the_config_of_an_earlier_save_are_the_new_adapter(
    old: int, new: int, tmp_path: Path
) -> None:
    models = [adapter(old), adapter(new)]
    if old == new:
        models[1].base_model.update_mask(classifier_examples(9)[6:])
        randomise(models[1], seed=7)
    for model, name in zip(models, ("old", "new"), strict=True):
        model.save_pretrained(str(tmp_path / name))
    shutil.copy(tmp_path / "new" / TENSORS, tmp_path / "old" / TENSORS)
    assert same(load(tmp_path / "old"), models[1])


def test_new_tensors_of_another_density_beside_an_old_config_are_refused(tmp_path: Path) -> None:
    for density, name in ((0.05, "old"), (0.08, "new")):
        adapter(1, density).save_pretrained(str(tmp_path / name))
    shutil.copy(tmp_path / "new" / TENSORS, tmp_path / "old" / TENSORS)
    with pytest.raises(ValueError, match=r"active entries where density=0\.05 of \d+ parameters makes"):
        load(tmp_path / "old")


def test_a_save_that_fails_at_the_config_leaves_the_new_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter(1).save_pretrained(str(tmp_path))
    model = adapter(3)

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left on device"):
            model.save_pretrained(str(tmp_path))
    assert same(load(tmp_path), model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", CONFIG, TENSORS]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_model_card_that_was_cut_short_does_not_stop_the_next_save(share: float, tmp_path: Path) -> None:
    model = adapter(1)
    model.save_pretrained(str(tmp_path))
    card = (tmp_path / "README.md").read_bytes()
    (tmp_path / "README.md").write_bytes(card[: int(share * len(card))])
    assert same(load(tmp_path), model)
    model.save_pretrained(str(tmp_path))
    assert "## Fish-Dip adapter" in (tmp_path / "README.md").read_text()


def limited(folder: str, limit: int | None, report: str) -> None:
    """Try to save a larger adapter, where no file may exceed `limit` bytes; None: as somebody who may not write."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model = adapter(3)
    with tempfile.TemporaryDirectory() as other:
        for _ in range(2):
            model.save_pretrained(other)  # imports all that it needs, which another user might not
    with open(report, "w", encoding="utf-8") as file:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        elif os.geteuid() == 0:
            os.seteuid(65534)
        try:
            model.save_pretrained(folder)
            text = "saved"
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
        os.seteuid(os.getuid())
        file.write(text)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user may look into."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "adapter").mkdir()
        yield folder
        (folder / "adapter").chmod(0o755)


@pytest.mark.parametrize("kind", ["card", "tensors", "read-only"])
def test_where_nothing_can_be_written_the_error_says_so_and_the_old_adapter_stays(kind: str, open_folder: Path) -> None:
    folder, report = open_folder / "adapter", open_folder / "report"
    model = adapter(1)
    model.save_pretrained(str(folder))
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    before = {name: (folder / name).read_bytes() for name in (CONFIG, TENSORS)}
    limit = {"card": 500, "tensors": sizes["README.md"] + 1000, "read-only": None}[kind]
    assert kind != "tensors" or sizes["README.md"] + 1000 < sizes[TENSORS]
    if limit is None:
        for path in folder.iterdir():
            path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        folder.chmod(0o555)
    process = in_child(limited, str(folder), limit, str(report))
    process.join(timeout=100)
    assert process.exitcode == 0
    assert ("Permission denied" if limit is None else "File too large") in report.read_text()
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert {path.name for path in folder.iterdir()} == sizes.keys()
    assert same(load(folder), model)
