"""The readers and the round trip on the public data sets, where they are at hand.

The folder is that of the environment variable PEFT_FISHDIP_DATA, by default ../shared/data beside the
repository; without it these tests are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from peft_fishdip.tasks import (
    read_conll,
    read_conll04,
    read_fewrel,
    read_multiwoz,
    read_relation_names,
    read_srl_columns,
    read_woz,
)
from peft_fishdip.tasks.roundtrip import table

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("PEFT_FISHDIP_DATA") or REPOSITORY.parent / "shared" / "data")

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no data sets at {DATA}; set PEFT_FISHDIP_DATA to a folder that holds them"
)


def test_conll04():
    examples = {split: read_conll04(DATA / f"conll04/conll04_{split}.json") for split in ("train", "dev", "test")}
    assert [len(x) for x in examples.values()] == [922, 231, 288]
    assert len({x.id for split in examples.values() for x in split}) == 922 + 231 + 288


@pytest.mark.parametrize(
    ("file", "count"),
    [("wnut17train.conll", 3394), ("emerging.dev.conll", 1009), ("emerging.test.annotated", 1287)],
)
def test_wnut17(file, count):
    assert len(read_conll(DATA / "wnut17" / file)) == count


@pytest.mark.parametrize("language", ["hau", "swa", "yor"])
def test_masakhaner(language):
    for split in ("train", "dev", "test"):
        path = DATA / "masakhaner" / language / f"{split}.txt"
        blocks = [block.split() for block in path.read_text(encoding="utf-8").split("\n\n") if block.strip()]
        examples = read_conll(path)
        assert len(examples) == len(blocks)
        for example, block in zip(examples, blocks, strict=True):
            assert [(s.label, s.start, s.end - 1) for s in example.spans] == get_entities(block[1::2])


@pytest.mark.parametrize(
    ("split", "sentences", "propositions"),
    [("train", 12479, 40377), ("dev", 1957, 4954), ("test", 2048, 4788)],
)
def test_ewt_srl(split, sentences, propositions):
    path = DATA / "ewt_srl" / f"{split}.conll"
    examples = read_srl_columns(path)
    assert len(examples) == propositions
    assert path.read_text(encoding="utf-8").count("# doc ") == sentences


@pytest.mark.parametrize(
    ("file", "relations", "instances"),
    [("val_wiki", 16, 16 * 700), ("train_wiki_partial", 64, 15662), ("val_pubmed", 10, 1000)],
)
def test_fewrel(file, relations, instances):
    examples = read_fewrel(DATA / "fewrel" / f"{file}.json")
    assert len(examples) == instances
    labels = {x.label for x in examples}
    assert len(labels) == relations
    assert file == "val_pubmed" or labels <= read_relation_names(DATA / "fewrel/pid2name.json").keys()


@pytest.mark.parametrize(("split", "dialogues"), [("val", 999), ("test", 1000)])
def test_multiwoz(split, dialogues):
    examples = read_multiwoz(DATA / f"multiwoz21/{split}.json.zip")
    assert len({x.id.rpartition(":")[0] for x in examples}) == dialogues


@pytest.mark.parametrize(("split", "dialogues"), [("train", 600), ("validate", 200), ("test", 400)])
def test_woz(split, dialogues):
    examples = read_woz(DATA / f"woz2/woz_{split}_en.json")
    assert len({x.id.rpartition(":")[0] for x in examples}) == dialogues


def test_every_example_survives_the_round_trip_or_is_explained():
    rows = list(table(DATA))
    assert len(rows) == 44
    for name, file, result in rows:
        assert "unexplained" not in result.reasons, (name, file)
        assert result.num_equal + sum(result.reasons.values()) == result.num_examples
    changed = {(name, file): result.reasons for name, file, result in rows if result.reasons}
    names = ("CoNLL04 joint", "CoNLL04 joint, raw text")
    assert changed == {(name, "conll04/conll04_train.json"): {"ambiguous_tail": 2} for name in names}
