import shutil

import pytest

from benchmarks import toy
from benchmarks.data_sets import DEFAULT_DATA_SETS
from benchmarks.problems import METRICS, Protocol, problem, rate_problem
from benchmarks.settings import SettingsError
from peft_fishdip.tasks import NerTask, SrlExample

FEW = Protocol(fraction=0.5, num_ways=2, num_shots=1, num_episodes=3)
TASKS = sorted(DEFAULT_DATA_SETS.items())


def test_generated_sentences_are_the_same_for_the_same_seed_and_differ_for_others():
    assert toy.sentences(20, seed=3) == toy.sentences(20, seed=3)
    assert toy.sentences(20, seed=3) != toy.sentences(20, seed=4)


def test_every_name_of_a_generated_sentence_is_labelled_and_nothing_else():
    plain_words = {word for template in toy.TEMPLATES for word in template.split() if "{" not in word}
    for example in toy.sentences(200, seed=0):
        labelled = {i for span in example.spans for i in range(span.start, span.end)}
        assert {i for i, token in enumerate(example.tokens) if token not in plain_words} == labelled


def test_most_names_of_the_test_sentences_are_new():
    def names(examples):
        return {span.text(example.tokens) for example in examples for span in example.spans}

    generated = problem("generated", None, Protocol(fraction=0.1), seed=0)
    train, test = names(generated.train), names(generated.test)
    assert len(test - train) > 0.9 * len(test)


def test_generated_sentences_survive_the_text_format():
    task = NerTask(toy.LABELS)
    for example in toy.sentences(50, seed=5):
        assert task.decode(example, task.encode(example).target).prediction == example


@pytest.mark.parametrize(("kind", "name"), TASKS)
def test_each_task_has_a_data_set_that_leaves_what_the_protocol_says(data_folder, kind, name):
    found = problem(name, data_folder, FEW, seed=0)
    assert found.kind == kind
    if kind == "relation":
        assert len(found.train) == 6 * 8  # all of the meta-training relations
        assert [len(episode.support) for episode in found.episodes] == [2, 2, 2]
        assert found.num_test == 3 * 2 * 5
        assert not {x.label for e in found.episodes for x in e.query} & {x.label for x in found.train}
    else:
        assert (len(found.train), len(found.test), found.num_test) == (10, 5, 5)
    gold = found.task.encode(found.train[0])
    predicted = found.task.decode(found.train[0], gold.target)
    scores = found.task.score([found.train[0]], [predicted])
    assert [scores[name] for name in METRICS[kind]] == [1.0] * len(METRICS[kind])


@pytest.mark.parametrize(("kind", "name"), TASKS)
def test_the_seed_draws_the_examples(data_folder, kind, name):
    def drawn(seed):
        found = problem(name, data_folder, FEW, seed)
        return [x.id for x in found.train], [x.id for episode in found.episodes for x in episode.support]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert problem(name, data_folder, FEW, 0).test == problem(name, data_folder, FEW, 1).test


@pytest.mark.parametrize(("kind", "name"), TASKS)
def test_a_learning_rate_is_chosen_by_training_examples_alone(data_folder, kind, name):
    whole = problem(name, data_folder, FEW, seed=0)
    part = rate_problem(whole, FEW, seed=0)
    if kind == "relation":
        support = {x.id for episode in part.episodes for x in (*episode.support, *episode.query)}
        assert support <= {x.id for x in whole.train}
        assert not support & {x.id for x in part.train}
        assert not {x.label for e in part.episodes for x in e.query} & {x.label for x in part.train}
    else:
        ids = [x.id for x in (*part.train, *part.test)]
        assert sorted(ids) == sorted(x.id for x in whole.train)
        assert len(part.test) == 2


@pytest.mark.parametrize(("kind", "name"), [task for task in TASKS if task[0] != "relation"])
def test_validation_examples_are_those_of_their_own_part(data_folder, kind, name):
    by = Protocol(fraction=1.0, rates_by="validation")
    whole = problem(name, data_folder, by, seed=0)
    part = rate_problem(whole, by, 0, data_folder)
    assert (len(whole.test), len(part.test)) == (5, 3)
    assert part.train == whole.train
    scored = problem(name, data_folder, Protocol(fraction=1.0, part="validation"), seed=0)
    assert (scored.test, scored.train) == (part.test, whole.train)
    assert "scored on validation examples" in Protocol(part="validation").title(kind)


def test_a_data_set_without_a_validation_part_is_named():
    with pytest.raises(SettingsError, match="'generated' has no validation part; leave out --part and --rates-by"):
        problem("generated", None, Protocol(part="validation"), seed=0)


def test_limits(data_folder):
    few = problem("conll04", data_folder, Protocol(fraction=1.0, max_train=3, max_test=2), seed=0)
    assert (len(few.train), len(few.test)) == (3, 2)
    assert few.train == problem("conll04", data_folder, Protocol(fraction=1.0), seed=0).train[:3]


@pytest.mark.parametrize("seed", range(3))
def test_a_limit_leaves_as_many_examples_of_one_relation_as_of_another(data_folder, seed):
    whole = problem("fewrel", data_folder, Protocol(num_ways=2), seed).train
    relations = {x.label for x in whole}
    for count in range(1, len(whole) + 1):
        found = problem("fewrel", data_folder, Protocol(num_ways=2, max_train=count), seed).train
        numbers = [sum(x.label == relation for x in found) for relation in relations]
        assert len({x.id for x in found}) == sum(numbers) == count
        assert max(numbers) - min(numbers) <= 1
    others = problem("fewrel", data_folder, Protocol(num_ways=2, max_train=len(relations)), seed + 3).train
    assert {x.id for x in others} != {x.id for x in whole[: len(relations)]}


def test_a_label_that_only_the_test_part_has_is_not_known(data_folder, tmp_path):
    (tmp_path / "ewt_srl").mkdir()
    for part, label in (("train", "ARG1"), ("test", "ARG9")):
        text = (data_folder / "ewt_srl" / "test.conll").read_text(encoding="utf-8").replace("ARG1", label)
        (tmp_path / "ewt_srl" / f"{part}.conll").write_text(text, encoding="utf-8")
    found = problem("ewt_srl", tmp_path, FEW, seed=0)
    example = found.test[0]
    assert isinstance(example, SrlExample)
    decoded = found.task.decode(example, "[ Mira | ARG9 ] left Oslo")
    assert [problem.kind for problem in decoded.problems] == ["label_error"]


def test_too_few_examples_to_choose_a_rate_by_are_refused(data_folder):
    one = Protocol(fraction=1.0, max_train=1)
    with pytest.raises(SettingsError, match=r"'conll04': 1 training examples are too few .*--rates own"):
        rate_problem(problem("conll04", data_folder, one, 0), one, 0)
    many = Protocol(num_ways=3, max_train=4)
    with pytest.raises(SettingsError, match=r"'fewrel': 4 training examples are too few .*--rates own"):
        rate_problem(problem("fewrel", data_folder, many, 0), many, 0)


def test_episodes_differ_by_number_and_by_seed(data_folder):
    drawn = [problem("fewrel", data_folder, FEW, seed).episodes for seed in range(2)]
    supports = {tuple(example.id for example in episode.support) for episodes in drawn for episode in episodes}
    assert len(supports) == 6


def test_which_training_file_there_is_is_told(data_folder, tmp_path):
    assert problem("fewrel", data_folder, FEW, 0).train_file == "train_wiki.json"
    shutil.copytree(data_folder / "fewrel", tmp_path / "fewrel")
    (tmp_path / "fewrel" / "train_wiki.json").rename(tmp_path / "fewrel" / "train_wiki_partial.json")
    assert problem("fewrel", tmp_path, FEW, 0).train_file == "train_wiki_partial.json"
    assert problem("conll04", data_folder, FEW, 0).train_file is None


def test_titles_say_what_the_protocol_is():
    protocol = Protocol(fraction=0.05, max_train=100)
    assert protocol.title("ner") == "5 % of the training examples, at most 100"
    assert protocol.title("relation") == "5-way 1-shot, 4 episodes"
    assert (protocol.tag("ner"), protocol.tag("relation")) == ("fraction-0.05", "5-way-1-shot")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("fraction", 0.0), ("fraction", 1.5), ("fraction", float("nan")), ("max_train", 0), ("max_test", -1)],
        *[("num_ways", 0), ("num_shots", 0), ("num_episodes", 0)],
    ],
)
def test_protocols_that_leave_nothing_are_refused(name, value):
    with pytest.raises(SettingsError, match=rf"{name}={value}"):
        Protocol(**{name: value})


def test_missing_unknown_and_malformed_data_is_named(data_folder, tmp_path):
    with pytest.raises(SettingsError, match=r"'conll05' is unknown; there are wnut17, .*generated"):
        problem("conll05", data_folder, FEW, 0)
    with pytest.raises(SettingsError, match=r"--data .*nowhere is no folder"):
        problem("conll04", tmp_path / "nowhere", FEW, 0)
    with pytest.raises(SettingsError, match="'conll04' needs --data, the folder"):
        problem("conll04", None, FEW, 0)
    (tmp_path / "conl04").mkdir()
    with pytest.raises(SettingsError, match=r"conll04_train.*; the folders of --data .* are: conl04"):
        problem("conll04", tmp_path, FEW, 0)
    (tmp_path / "conll04").mkdir()
    (tmp_path / "conll04" / "conll04_train.json").write_text("{", encoding="utf-8")
    with pytest.raises(SettingsError, match="conll04_train"):
        problem("conll04", tmp_path, FEW, 0)
    with pytest.raises(SettingsError, match="num_ways=9"):
        problem("fewrel", data_folder, Protocol(num_ways=9), 0)
