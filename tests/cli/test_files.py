"""Files that the command line reads and writes: of several kinds, compressed, with equal ids, in other encodings."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from peft_fishdip.cli import inputs
from peft_fishdip.cli.prediction_files import with_own_ids
from peft_fishdip.tasks import Document, Span, read, write, write_json_lines

from .test_extraction import failed, place, rows_of, run  # noqa: F401  # a fixture

TEXTS = [{"text": "Bo left Rome .", "id": "x"}, {"text": "Rain .", "id": "x"}, {"text": "Rain .", "id": None}]
LABEL_STUDIO = [
    {
        "id": 1,
        "data": {"text": "Bo left Rome ."},
        "annotations": [{"result": []}],
        "predictions": [
            {
                "result": [
                    {
                        "id": "a",
                        "type": "labels",
                        "from_name": "label",
                        "to_name": "text",
                        "value": {"start": 8, "end": 12, "text": "Rome", "labels": ["LOC"]},
                    }
                ]
            }
        ],
    }
]


def json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def here(place, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    for name in ("adapter", "base", "data.jsonl"):
        Path(name).symlink_to(place / name)
    return tmp_path


def predicted(*arguments, **options):
    result = run("predict", "adapter", *arguments, "--device", "cpu", **options)
    assert result.exit_code == 0, result.output
    return rows_of(result.stdout)


def test_lines_are_those_of_text_files_alone(here):
    Path("mixed").mkdir()
    Path("mixed/a.txt").write_text("Bo left Rome .\rRain .\n", encoding="utf-8")
    Path("mixed/b.jsonl").write_text(json_lines(TEXTS[:1]), encoding="utf-8")
    rows = predicted("mixed", "--lines")
    assert [(row["id"], row["text"]) for row in rows] == [
        ("a.txt:1", "Bo left Rome ."),
        ("a.txt:2", "Rain ."),
        ("x", "Bo left Rome ."),
    ]
    suggested = run("suggest", "adapter", "mixed", "--jsonl", "--device", "cpu")
    assert len(suggested.stdout.splitlines()) == 2, "lines of the .txt, too, and equal texts once"


@pytest.mark.parametrize("name", ["x.json", "x.csv", "x.TSV.gz", "x.html"])
def test_what_is_no_plain_text_is_refused(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"text\nBo left Rome .\n")
    with pytest.raises(ValueError, match=r"is no plain text, .* write its texts to a file \.txt, or \.jsonl"):
        inputs.files_of([path])


@pytest.mark.parametrize("lines", [True, False])
def test_json_lines_without_their_ending_are_warned_of(lines, tmp_path, capsys):
    path = tmp_path / "rows.txt"
    for content, expected in ((json_lines(TEXTS), 1), ("{Bo} left .\n{}\n", 0), ("Rain .", 0)):
        path.write_text(content, encoding="utf-8")
        files = inputs.files_of([path])
        inputs.check_texts(files, lines=lines)
        assert [*inputs.read_texts(files, lines=lines)]
        assert capsys.readouterr().err.count("rows.txt: this looks like JSON lines, and is read as") == expected


def test_what_predict_writes_can_be_viewed_whatever_the_ids(here):
    Path("same.jsonl").write_text(json_lines(TEXTS), encoding="utf-8")
    Path("d1").mkdir()
    Path("d2").mkdir()
    for folder in ("d1", "d2"):
        Path(folder, "a.txt").write_text("Rain .", encoding="utf-8")
        Path(folder, "ids.jsonl").write_text(json_lines(TEXTS[:1]), encoding="utf-8")
    rows = predicted("same.jsonl")
    assert [row["id"] for row in rows] == ["x", "same.jsonl:2", "same.jsonl:3"]
    sources = ["d1/a.txt", "d2/a.txt", "d1/ids.jsonl", "d2/ids.jsonl"]
    assert [(row["file"], row["id"]) for row in predicted(*sources)] == [
        ("a.txt", "a.txt"),
        ("d2/a.txt", "d2/a.txt"),
        ("ids.jsonl", "x"),
        ("d2/ids.jsonl", "x"),
    ]
    for name, given in (("one.jsonl", ["same.jsonl"]), ("more.jsonl", sources), ("folders.jsonl", ["d1", "d2"])):
        assert run("predict", "adapter", *given, "-o", name, "--device", "cpu").exit_code == 0
        viewed = run("view", name, "-o", f"{name}.html")
        assert viewed.exit_code == 0, viewed.output
    done = run("predict", "adapter", *sources, "-o", "found.jsonl", "--format", "doccano", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert len(read("found.jsonl").documents) == 4
    failed(run("predict", "adapter", "d1/a.txt", "d1"), "d1/a.txt is given twice; give it once")


def test_ids_that_files_have_in_common_stand_after_the_names_of_the_files():
    texts = [inputs.RawText(file, id, "", 0) for file, id in (("a.txt", "a.txt"), ("b.jsonl", "x"), ("c.jsonl", "x"))]
    assert [text.id for text in with_own_ids(texts)] == ["a.txt:a.txt", "b.jsonl:x", "c.jsonl:x"]
    assert [text.id for text in with_own_ids(texts[:2])] == ["a.txt", "x"]
    assert [text.id for text in with_own_ids(texts[:2], as_files=True)] == ["a", "x"]
    both = [texts[0], texts[1]._replace(id="a")]
    assert [text.id for text in with_own_ids(both, as_files=True)] == ["a.txt", "a"]


def test_ids_of_rows_differ_even_where_one_looks_like_a_place(tmp_path):
    rows = [{"text": "a", "id": "rows.jsonl:2"}, {"text": "b"}, {"text": "c", "id": "rows.jsonl:2"}, {"text": "d"}]
    path = tmp_path / "rows.jsonl"
    path.write_text(json_lines(rows), encoding="utf-8")
    ids = [text.id for text in inputs.read_texts(inputs.files_of([path]))]
    assert ids[0] == "rows.jsonl:2"
    assert len({*ids}) == 4


def test_compressed_files_are_read_and_written(here):
    for name, content in (("a.txt", "Bo left Rome .\nRain .\n"), ("b.jsonl", json_lines(TEXTS[:1]))):
        Path(f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    Path("folder").mkdir()
    shutil.copy("b.jsonl.gz", "folder")
    assert [row["text"] for row in predicted("a.txt.gz", "b.jsonl.gz", "--lines")] == [
        *("Bo left Rome .", "Rain .", "Bo left Rome ."),
    ]
    assert [row["text"] for row in predicted("a.txt.gz")] == ["Bo left Rome .\nRain .\n"]
    assert [row["file"] for row in predicted("folder")] == ["b.jsonl.gz"]
    for name in ("out.jsonl.gz", "out.JSONL.GZ"):
        assert run("predict", "adapter", "b.jsonl.gz", "-o", name, "--device", "cpu").exit_code == 0
        assert gzip.decompress(Path(name).read_bytes()).decode().startswith('{"id": "x", "file": "b.jsonl.gz"')
    assert run("view", "out.jsonl.gz", "-o", "page.html").exit_code == 0
    documents = [Document("Bo left Rome .", (Span(0, 2, "PER"),), id="a")]
    write_json_lines("saved.jsonl.gz", documents)
    assert list(read("saved.jsonl.gz").documents) == documents
    Path("torn.txt.gz").write_bytes(Path("a.txt.gz").read_bytes()[:-9])
    failed(run("predict", "adapter", "torn.txt.gz", "--lines"), "torn.txt.gz", "a whole gzip file")


def test_an_encoding_can_be_given_wherever_files_are_read(here):
    Path("latin.txt").write_bytes("Bo left Rome .\nCoruña .\n".encode("latin-1"))
    Path("mark.txt").write_text("Bo left Rome .\nCoruña .\n", encoding="utf-16")
    Path("latin.conll").write_bytes("Bo B-PER\nCoruña O\n\n".encode("latin-1"))
    told = ["latin.txt, line 2", "pass --encoding latin-1, 'gb18030' or what it is"]
    for arguments in (["predict", "adapter", "latin.txt"], ["suggest", "adapter", "latin.txt"]):
        for more in ([], ["--lines"] if arguments[0] == "predict" else []):
            failed(run(*arguments, *more), *told)
    failed(run("evaluate", "adapter", "latin.conll"), "latin.conll, line 2", "pass --encoding latin-1")
    failed(run("train", "latin.conll", "--model", "base", "-o", "new"), "pass --encoding latin-1")
    latin = ["--encoding", "latin-1"]
    for arguments in (["latin.txt", "--lines", *latin], ["mark.txt", "--lines"]):
        assert [row["text"] for row in predicted(*arguments)] == ["Bo left Rome .", "Coruña ."]
    suggested = run("suggest", "adapter", "latin.txt", "--known", "latin.conll", *latin, "--device", "cpu")
    assert len(suggested.stdout.splitlines()) == 2
    assert run("evaluate", "adapter", "latin.conll", *latin, "--device", "cpu").exit_code == 0
    few = ["--steps", "1", "--label", "PER=person", "--model", "base", "-o", "new", "--device", "cpu"]
    failed(
        run("train", "latin.conll", *latin, *few[4:]), "give, such as --label PER=person, a name that this tokenizer"
    )
    trained = run("train", "latin.conll", *latin, *few)
    assert trained.exit_code == 0, trained.output
    failed(run("predict", "adapter", "latin.txt", "--encoding", "hex"), "encoding='hex'", "no encoding of text")
    piped = run("predict", "adapter", "--lines", "--device", "cpu", *latin, input=Path("latin.txt").read_bytes())
    assert [row["text"] for row in rows_of(piped.stdout)] == ["Bo left Rome .", "Coruña ."]
    failed(run("predict", "adapter", "--lines", input=Path("latin.txt").read_bytes()), "stdin, line")


def test_a_file_that_cannot_be_read_is_told_before_a_model_is_loaded(here, monkeypatch):
    monkeypatch.setattr("peft_fishdip.extractor.Extractor.load", lambda *_, **__: pytest.fail("a model is loaded"))
    Path("late").mkdir()
    Path("late/a.txt").write_text("Rain .", encoding="utf-8")
    Path("late/z.txt").write_bytes("Coruña".encode("latin-1"))
    Path("empty.txt").write_text("\n", encoding="utf-8")
    failed(run("predict", "adapter", "late", "-o", "out.jsonl"), "z.txt, line 1", "text in UTF-8")
    failed(run("predict", "adapter", "empty.txt", "--lines"), "there is no text in what was given")
    failed(run("suggest", "adapter", "late"), "z.txt, line 1")


def test_what_a_format_cannot_hold_is_told_before_a_model_is_loaded(here, monkeypatch):
    monkeypatch.setattr("peft_fishdip.extractor.Extractor.load", lambda *_, **__: pytest.fail("a model is loaded"))
    Path("raw.txt").write_text("Bo left Rome .\nRain .\n", encoding="utf-8")
    Path("empty.jsonl").write_text(json_lines([{"text": ""}]), encoding="utf-8")
    failed(run("predict", "adapter", "raw.txt", "-o", "o", "--format", "pubtator"), "line breaks, and PubTator")
    failed(
        run("predict", "adapter", "empty.jsonl", "-o", "o", "--format", "conll"), "CoNLL cannot hold an empty sentence"
    )
    settings = json.loads(Path("adapter/task.json").read_text(encoding="utf-8"))
    Path("other").mkdir()

    def with_settings(**values):
        Path("other/task.json").write_text(json.dumps({**settings, **values}), encoding="utf-8")

    with_settings(labels={"full name": "full name"})
    failed(run("predict", "other", "raw.txt", "-o", "o", "--format", "brat"), "cannot hold the labels", "'full name'")
    with_settings(task="joint", relation_labels={"At": "at"}, flat=False)
    failed(run("predict", "other", "raw.txt", "-o", "o", "--format", "conll"), "holds no relations", "doccano")
    assert not Path("o").exists()


def test_predictions_that_a_format_cannot_hold_are_not_lost(here, monkeypatch):
    Path("raw.txt").write_text("Bo left Rome .\nRain .\n", encoding="utf-8")

    def refuse(*_, **__):
        advice = "write it in another, or leave spans out with dataclasses.replace(document, spans=...)"
        raise ValueError(f"Span(0, 2) and Span(0, 3) overlap: {advice}")

    monkeypatch.setattr("peft_fishdip.cli.predict.check_format", lambda *_: None)
    monkeypatch.setattr("peft_fishdip.cli.prediction_files.write", refuse)
    result = run("predict", "adapter", "raw.txt", "--lines", "-o", "o.txt", "--format", "conll", "--device", "cpu")
    failed(result, "overlap: write it in another; the predictions are in o.txt.predictions.jsonl")
    assert "dataclasses" not in result.output
    found = read("o.txt.predictions.jsonl").documents
    assert [document.text for document in found] == ["Bo left Rome .", "Rain ."]


def test_options_of_readers_have_the_type_that_they_ask_for(here):
    Path("tasks.json").write_text(json.dumps(LABEL_STUDIO), encoding="utf-8")
    for value, count in (("True", 1), ("true", 1), ("False", 0), ("FALSE", 0)):
        arguments = ["convert", "tasks.json", f"{value}.jsonl", "--to", "jsonl", "--read", f"predictions={value}"]
        assert run(*arguments).exit_code == 0
        rows = rows_of(Path(f"{value}.jsonl").read_text(encoding="utf-8"))
        assert [len(row["spans"]) for row in rows] == [count], value
    for value in ("no", "1", "null", '"true"'):
        arguments = ["convert", "tasks.json", "o.jsonl", "--to", "jsonl", "--read", f"predictions={value}"]
        failed(run(*arguments), f"--read predictions={value}: give true or false")
    Path("in.conll").write_text("1 Bo B-PER\n2 left O\n", encoding="utf-8")
    failed(run("convert", "in.conll", "o", "--to", "jsonl", "--read", "token=one"), "token=one: give a whole number")
    write("docs.jsonl", [Document("Bo", (Span(0, 2, "PER"),), id="a")], format="doccano")
    assert run("convert", "docs.jsonl", "named.json", "--to", "label_studio", "--write", "from_name=7").exit_code == 0
    assert '"from_name": "7"' in Path("named.json").read_text(encoding="utf-8")


def test_a_folder_is_no_file_to_write(here):
    Path("folder").mkdir()
    Path("folder/x").touch()
    failed(
        run("convert", "data.jsonl", "folder", "--to", "doccano", "--overwrite"), "folder is a folder; give the name"
    )
    failed(run("train", "data.jsonl", "--model", "base", "-o", "new", "--rounds", "3"), "--rounds 3", "--unlabelled")
