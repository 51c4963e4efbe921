"""A tiny base model, and a folder with invented data sets in the five real formats."""

import json

import pytest

from . import tiny


@pytest.fixture(scope="session")
def base_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny.tokenizer()
    # Compacter needs a d_model that 128 divides; PEFT's prefixes need d_kv = d_model / heads
    tiny.t5(vocab_size=len(tokenizer), d_model=128, d_kv=64, d_ff=64).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for write in (write_wnut17, write_conll04, write_fewrel, write_ewt_srl, write_woz2):
        write(root)
    return root


def write_wnut17(root):
    (root / "wnut17").mkdir()
    sentence = "Mira\tB-person\nHolt\tI-person\nleft\tO\nOslo\tB-location\n\n"
    for name, count in (("wnut17train.conll", 20), ("emerging.test.annotated", 5), ("emerging.dev.conll", 3)):
        (root / "wnut17" / name).write_text(sentence * count, encoding="utf-8")


def write_conll04(root):
    (root / "conll04").mkdir()
    sentence = {
        "tokens": ["Mira", "Holt", "left", "Oslo"],
        "tags": ["B-Peop", "L-Peop", "O", "U-Loc"],
        "relations": [{"head": 0, "tail": 1, "type": "Live_In"}],
    }
    for part, count in (("train", 20), ("test", 5), ("dev", 3)):
        content = [{**sentence, "orig_id": i} for i in range(count)]
        (root / "conll04" / f"conll04_{part}.json").write_text(json.dumps(content), encoding="utf-8")


def write_fewrel(root):
    (root / "fewrel").mkdir()

    def instances(relation, count):
        return [
            {
                "tokens": ["Mira", relation, "Oslo", str(i)],
                "h": ["mira", "Q1", [[0]]],
                "t": ["oslo", "Q2", [[2]]],
            }
            for i in range(count)
        ]

    for part, relations in (("train_wiki", range(6)), ("val_wiki", range(6, 9))):
        content = {f"P{r}": instances(f"r{r}", 8) for r in relations}
        (root / "fewrel" / f"{part}.json").write_text(json.dumps(content), encoding="utf-8")
    names = {f"P{r}": [f"relation {r}", ""] for r in range(9)}
    (root / "fewrel" / "pid2name.json").write_text(json.dumps(names), encoding="utf-8")


def write_ewt_srl(root):
    (root / "ewt_srl").mkdir()
    sentence = "Mira\tNNP\t-\t-\t(ARG0*)\nleft\tVBD\tleave\tleave.01\t(V*)\nOslo\tNNP\t-\t-\t(ARG1*)\n\n"
    for part, count in (("train", 20), ("test", 5), ("dev", 3)):
        (root / "ewt_srl" / f"{part}.conll").write_text(sentence * count, encoding="utf-8")


def write_woz2(root):
    (root / "woz2").mkdir()
    turn = {
        "system_transcript": "",
        "transcript": "cheap food in the north",
        "belief_state": [{"act": "inform", "slots": [["area", "north"]]}],
    }
    for part, count in (("train", 20), ("test", 5), ("validate", 3)):
        content = [{"dialogue_idx": i, "dialogue": [turn]} for i in range(count)]
        (root / "woz2" / f"woz_{part}_en.json").write_text(json.dumps(content), encoding="utf-8")
