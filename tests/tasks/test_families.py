"""The same lines for encoder-decoder models, causal LMs and encoders."""

from __future__ import annotations

import warnings

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from peft_fishdip import FishDipConfig
from peft_fishdip.extractor import suggest
from peft_fishdip.tasks import (
    DstExample,
    DstTask,
    JointTask,
    NerExample,
    NerTask,
    RelationExample,
    RelationTask,
    SlotValue,
    Span,
    SrlExample,
    SrlTask,
    TaskCollator,
    TokenClassificationTask,
    Turn,
    candidate_losses,
    evaluate,
    generate,
    load_model,
    predict,
    task_type,
    to_features,
)

from .test_generation import EXAMPLES, TASK
from .tiny import bpe_tokenizer, tiny_model, tiny_tokenizer

LENGTHS = {"max_source_length": 60, "max_target_length": 60}
TEXTS = [text for example in EXAMPLES for text in TASK.encode(example)[:2]]
RELATION = RelationTask({"P1": "lives in", "P2": "left"})
PAIRS = [
    RelationExample(("Ann", "lives", "in", "Oslo"), Span(0, 1), Span(3, 4), "P1"),
    RelationExample(("Bo", "left", "Rome"), Span(0, 1), Span(2, 3), "P2"),
]


def llama(tokenizer, **options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    own = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = {"vocab_size": len(tokenizer), "max_position_embeddings": 128, **sizes, **own}
    return LlamaForCausalLM(LlamaConfig(**(config | options))).eval()


def gpt2(tokenizer):
    torch.manual_seed(0)
    own = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=64, n_layer=2, n_head=4, **own)
    return GPT2LMHeadModel(config).eval()


def bert(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)).eval()


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def t5(tokenizer):
    return tiny_model(len(tokenizer))


BASES = {"SEQ_2_SEQ_LM": t5, "CAUSAL_LM": llama, "TOKEN_CLS": bert}


@pytest.mark.parametrize("kind", BASES)
def test_the_same_lines_train_each_family(kind, tmp_path):
    tokenizer = tiny_tokenizer(TEXTS)
    name = saved(tmp_path / "base", BASES[kind](tokenizer), tokenizer)

    base, tokenizer = load_model(name, TASK)
    assert task_type(base) == kind
    model = get_peft_model(base, FishDipConfig(task_type=task_type(base), density=0.3, update_interval=20))
    trainer = Trainer(
        model,
        TrainingArguments(
            str(tmp_path / "runs"), max_steps=150, learning_rate=3e-3, per_device_train_batch_size=4, use_cpu=True
        ),
        train_dataset=to_features(TASK, tokenizer, EXAMPLES, model=model, **LENGTHS),
        data_collator=TaskCollator(tokenizer, model),
    )
    trainer.train()
    assert task_type(model) == kind
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*output_cut")
        assert evaluate(model, tokenizer, TASK, EXAMPLES, max_new_tokens=40, max_source_length=60)["f1"] > 0.8
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*output_cut")
        (found,) = predict(model, tokenizer, TASK, ["Ann Lee lives in Oslo."], max_new_tokens=40)
    assert found.prediction.tokens == EXAMPLES[0].tokens


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("template", [None, "{source} =>", lambda source: f"Q: {source}\nA: "])
def test_a_row_is_a_prompt_of_generation_and_a_completion_that_ends(make, template):
    tokenizer = bpe_tokenizer([text + " => Q: A:" for text in TEXTS])
    model = make(tokenizer)
    rows = to_features(TASK, tokenizer, EXAMPLES, model=model, template=template, **LENGTHS)
    seen = []
    model.generate = lambda input_ids, attention_mask, **options: (
        seen.append([ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)])
        or torch.cat([input_ids, torch.full((len(input_ids), 1), tokenizer.eos_token_id)], 1)
    )
    sources = [TASK.encode(example).source for example in EXAMPLES]
    generate(model, tokenizer, sources, template=template, batch_size=1, max_source_length=60, max_new_tokens=60)
    prompts = {tuple(batch[0]) for batch in seen}
    for row, example in zip(rows, EXAMPLES, strict=True):
        begin = row["labels"].count(-100)
        assert tuple(row["input_ids"][:begin]) in prompts
        assert row["input_ids"][0] == tokenizer.bos_token_id
        completion = row["labels"][begin:]
        assert completion == row["input_ids"][begin:]
        assert completion[-1] == tokenizer.eos_token_id
        assert completion.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(completion[:-1]).strip() == TASK.encode(example).target


@pytest.mark.parametrize("make", [llama, gpt2])
def test_losses_are_those_of_single_rows_with_all_logits(make):
    tokenizer = bpe_tokenizer(TEXTS)
    tokenizer.pad_token = tokenizer.eos_token
    model = make(tokenizer)
    rows = to_features(TASK, tokenizer, EXAMPLES, model=model, **LENGTHS)
    batch = TaskCollator(tokenizer, model)(rows)
    sums = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        sums.append(cross_entropy(logits, torch.tensor(row["labels"])[1:], reduction="sum"))
    targets = sum(label != -100 for row in rows for label in row["labels"])
    torch.testing.assert_close(model(**batch).loss, sum(sums) / targets, rtol=1e-5, atol=1e-6)
    assert batch["labels"].shape[1] == batch["logits_to_keep"] < batch["input_ids"].shape[1]
    model.zero_grad()
    model(**batch).loss.backward()
    mine = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    (sum(sums) / targets).backward()
    for parameter, gradient in zip(model.parameters(), mine, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_model_without_logits_to_keep_gets_whole_labels():
    tokenizer = tiny_tokenizer(TEXTS)

    class Old(GPT2LMHeadModel):
        def forward(self, input_ids=None, attention_mask=None, labels=None):
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)

    model = Old(gpt2(tokenizer).config)
    batch = TaskCollator(tokenizer, model)(to_features(TASK, tokenizer, EXAMPLES, model=model, **LENGTHS))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["labels"].shape == batch["input_ids"].shape
    assert model(**batch).loss.isfinite()


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_of_peft_stand_before_the_rows(kind):
    tokenizer = bpe_tokenizer(TEXTS)
    model = get_peft_model(llama(tokenizer), kind(task_type="CAUSAL_LM", num_virtual_tokens=5)).eval()
    rows = to_features(TASK, tokenizer, EXAMPLES, model=model, **LENGTHS)
    alone = [model(**TaskCollator(tokenizer, model)([row])).loss for row in rows]
    counts = [sum(label != -100 for label in row["labels"]) for row in rows]
    same = [rows[0], rows[0]]  # of one length: without padding, a batch is the mean of its rows
    torch.testing.assert_close(model(**TaskCollator(tokenizer, model)(same)).loss, alone[0])
    batch = TaskCollator(tokenizer, model)(rows)
    assert batch["labels"].shape == batch["input_ids"].shape
    mean = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(model(**batch).loss, mean, rtol=0.05, atol=0.05)  # padding moves the virtual tokens away


def test_candidate_losses_of_a_causal_lm_are_those_of_its_rows():
    tokenizer = bpe_tokenizer([RELATION.encode(example).target for example in PAIRS])
    model = gpt2(tokenizer)
    losses = candidate_losses(model, tokenizer, RELATION, PAIRS, ["P1", "P2"], max_length=90, batch_size=3)
    for row, example in zip(losses, PAIRS, strict=True):
        for loss, label in zip(row, ["P1", "P2"], strict=True):
            prompt = tokenizer(RELATION.encode(example).source + "\n")["input_ids"]
            target = tokenizer(RELATION.candidate(example, label), add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*prompt, *target, tokenizer.eos_token_id]])
            logits = model(ids).logits[0, len(prompt) - 1 : -1]
            assert loss == pytest.approx(cross_entropy(logits, ids[0, len(prompt) :], reduction="sum").item(), rel=1e-4)
    with pytest.raises(ValueError, match="reference=True"):
        candidate_losses(model, tokenizer, RELATION, PAIRS, ["P1"], reference=True)


def test_relations_on_an_encoder_are_classes_of_texts(tmp_path):
    tokenizer = tiny_tokenizer([RELATION.encode(example).source for example in PAIRS])
    model, tokenizer = load_model(saved(tmp_path, bert(tokenizer), tokenizer), RELATION)
    assert task_type(model) == "SEQ_CLS"
    assert model.config.id2label == {0: "P1", 1: "P2"}
    features = to_features(RELATION, tokenizer, PAIRS, model=model, max_source_length=60)
    assert [feature["labels"] for feature in features] == [0, 1]
    batch = TaskCollator(tokenizer, model)(features)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert evaluate(model, tokenizer, RELATION, PAIRS, max_source_length=60)["accuracy"] == 1.0
    losses = candidate_losses(model, tokenizer, RELATION, PAIRS, ["P2", "P1"], max_length=60)
    assert losses[0][1] < losses[0][0]
    assert losses[1][0] < losses[1][1]
    with pytest.raises(ValueError, match="has no label"):
        to_features(RELATION, tokenizer, [RelationExample(("a", "b"), Span(0, 1), Span(1, 2))], model=model)


def perfect(classes, tokenizer, example, max_length=128):
    """Predictions of a model that gives every first token its own tag."""
    tags, problems = classes.tagged(example)
    reading = classes.read(tokenizer, example, max_length)
    labels = torch.tensor(classes.feature(reading, tags)["labels"]).clamp(min=0)
    return classes.decode(example, reading, torch.nn.functional.one_hot(labels, len(classes.tags)).float()), problems


SRL = SrlTask(["ARG0", "ARG1"])
SOLD = SrlExample(["Ann", "sold", "the", "old", "car"], Span(1, 2), (Span(0, 1, "ARG0"), Span(2, 5, "ARG1")))
DST = DstTask({"hotel": ["area", "price range"], "train": ["day"]})
TURNS = (
    Turn("user", "A cheap hotel in the north."),
    Turn("agent", "Which day?"),
    Turn("user", "Monday, and in the East"),
)
STATE = (
    SlotValue("hotel", "area", "East"),
    SlotValue("hotel", "price range", "cheap"),
    SlotValue("train", "day", "Monday"),
)


@pytest.mark.parametrize(
    ("task", "example"),
    [
        (TASK, EXAMPLES[0]),
        (TASK, NerExample(("Ann",), (Span(0, 1, "PER"),))),
        (SRL, SOLD),
        (DST, DstExample(TURNS, STATE)),
    ],
)
@pytest.mark.parametrize("make", [tiny_tokenizer, bpe_tokenizer])
def test_tags_say_the_same_as_records(task, example, make):
    tokenizer = make([task.encode(example).source, task.encode(example).target])
    decoded, problems = perfect(TokenClassificationTask(task), tokenizer, example)
    assert decoded.prediction == example
    assert decoded.text == task.encode(example).target
    assert not problems


def test_what_tags_cannot_say_is_told(tmp_path):
    nested = NerExample(("the", "bank", "of", "Oslo"), (Span(1, 4, "PER"), Span(3, 4, "LOC")))
    decoded, problems = perfect(TokenClassificationTask(TASK), bpe_tokenizer(["the bank of Oslo"]), nested)
    assert [problem.kind for problem in problems] == ["nested_span"]
    assert decoded.prediction.spans == (Span(1, 4, "PER"),)
    tokenizer = bpe_tokenizer(["the bank of Oslo"])
    hint = r"nested_span 1 \(tags hold no span inside another, .*\); see `TokenClassificationTask\(task\).tagged` for"
    with pytest.warns(UserWarning, match=hint):
        to_features(TASK, tokenizer, [nested], model=load_model(saved(tmp_path, bert(tokenizer), tokenizer), TASK)[0])

    unsaid = DstExample(TURNS, (SlotValue("hotel", "area", "yes"), SlotValue("train", "day", "MONDAY")))
    decoded, problems = perfect(TokenClassificationTask(DST), bpe_tokenizer(["Monday"]), unsaid)
    assert [problem.kind for problem in problems] == ["unspoken_value"]
    assert decoded.prediction.state == (SlotValue("train", "day", "Monday"),)
    with pytest.raises(ValueError, match="cannot be written as tags"):
        TokenClassificationTask(JointTask({"PER": "person"}, {"R": "knows"}))


@pytest.mark.parametrize(
    ("task", "example", "kept"),
    [
        (TASK, NerExample([f"w{i}" for i in range(40)], (Span(0, 2, "PER"), Span(38, 40, "LOC"))), {Span(0, 2, "PER")}),
        (
            SRL,
            SrlExample([f"w{i}" for i in range(40)], Span(20, 21), (Span(19, 20, "ARG0"), Span(0, 1, "ARG1"))),
            {Span(19, 20, "ARG0")},
        ),
    ],
)
def test_of_what_is_too_long_the_important_part_is_read(task, example, kept):
    tokenizer = bpe_tokenizer(["w1 w2 [ ]"])
    classes = TokenClassificationTask(task)
    reading = classes.read(tokenizer, example, 30)
    assert len(reading.ids) <= 30 < reading.num_tokens
    decoded, _ = perfect(classes, tokenizer, example, 30)
    found = decoded.prediction.spans if task is TASK else decoded.prediction.arguments
    assert set(found) == kept


def word_pieces():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "ann": 3, "lee": 4}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[SEP]")


@pytest.mark.parametrize(
    ("words", "span", "numbers", "kept"),
    [
        ("\u200b Ann x", (0, 2), [1, 0], (1, 2)),
        ("\u200b \u200b Ann x", (0, 3), [1, 0], (2, 3)),
        ("Ann \u200b Lee x", (0, 3), [1, 2, 0], (0, 3)),
        ("Ann \u200b x", (0, 2), [1, 0], (0, 1)),
        ("Ann \u200b", (1, 2), [0], None),
    ],
)
def test_words_without_tokens(words, span, numbers, kept):
    """Such as zero-width characters under WordPiece."""
    tokenizer, tags = word_pieces(), TokenClassificationTask(NerTask({"LOC": "location"}))
    example = NerExample(words.split(" "), (Span(*span, "LOC"),))
    labels, _ = tags.tagged(example)
    reading = tags.read(tokenizer, example, 99)
    assert tags.feature(reading, labels)["labels"] == numbers
    found = tags.decode(example, reading, 9.0 * torch.eye(3)[numbers]).prediction
    assert found.spans == ((Span(*kept, "LOC"),) if kept else ())
    told = [problem.kind for problem in tags.unread(reading, labels)]
    assert told == ["word_without_tokens"] * (found != example)


def test_cut_sources_of_encoders_are_told(tmp_path):
    tokenizer = bpe_tokenizer(["Ann w"])
    model, tokenizer = load_model(saved(tmp_path, bert(tokenizer), tokenizer), TASK)
    long = NerExample(["w"] * 300, (Span(299, 300, "PER"),))
    with pytest.warns(UserWarning, match="source_cut 1"):
        (feature,) = to_features(TASK, tokenizer, [long], model=model)
    assert len(feature["input_ids"]) <= 128  # what the model can read
    with pytest.warns(UserWarning, match="source_cut"):
        short, cut = predict(model, tokenizer, TASK, [["Ann"], long.tokens], batch_size=2, windows=False)
    assert [problem.kind for problem in cut.problems] == ["source_cut"]
    assert not short.problems
    assert len(cut.prediction.tokens) == 300
    assert cut.confidence is None, "words that were not read have no probability"
    assert 0 < short.confidence < 1
    assert [each.position for each in suggest([short, cut], 2)] == [1, 0]


def test_a_source_that_leaves_no_room_in_a_row_is_cut_or_refused():
    tokenizer = bpe_tokenizer(["Ann w"])
    model = llama(tokenizer)
    with pytest.warns(UserWarning, match="_cut") as told:
        (cut,) = predict(model, tokenizer, TASK, [["w"] * 300], max_new_tokens=8)
    assert "source_cut" in str(told[0].message)
    assert "source_cut" in [problem.kind for problem in cut.problems]
    assert cut.confidence is None
    with pytest.raises(ValueError, match="at most 128 tokens in one row"):
        generate(model, tokenizer, ["Ann"], max_new_tokens=128)
    with pytest.raises(ValueError, match="shorten the template"):
        to_features(TASK, tokenizer, EXAMPLES, model=model, template="w " * 200 + "{source}", **LENGTHS)


def test_models_and_tasks_that_do_not_fit_are_refused(tmp_path):
    tokenizer = tiny_tokenizer(TEXTS)
    encoder = bert(tokenizer)
    name = saved(tmp_path, encoder, tokenizer)
    for wrong in (encoder, BertForMaskedLM(encoder.config), BertLMHeadModel(encoder.config)):
        with pytest.raises(ValueError, match="neither writes text nor has a classifier"):
            task_type(wrong)
    tagger, _ = load_model(name, TASK)
    with pytest.raises(ValueError, match=r"has a classifier and writes no text"):
        generate(tagger, tokenizer, ["Ann"])
    with pytest.raises(ValueError, match="has the classes O, B-PER, I-PER, B-LOC, I-LOC, and the task"):
        evaluate(tagger, tokenizer, NerTask(["LOC", "PER"]), EXAMPLES)
    with pytest.raises(ValueError, match="cannot be written as tags"):
        load_model(name, JointTask({"PER": "person"}, {"R": "knows"}))
    with pytest.raises(ValueError, match="is about whole texts"):
        to_features(RELATION, tokenizer, PAIRS, model=tagger)
    classifier = AutoModelForSequenceClassification.from_pretrained(name)
    with pytest.raises(ValueError, match="is about words of a text"):
        predict(classifier, tokenizer, TASK, EXAMPLES)
    with pytest.raises(ValueError, match="is for decoder-only models"):
        to_features(TASK, tokenizer, EXAMPLES, model=tiny_model(len(tokenizer)), chat=True)
    with pytest.raises(ValueError, match="is for decoder-only models; without model="):
        to_features(TASK, tokenizer, EXAMPLES, template="{source}")
    model = llama(tokenizer)
    with pytest.raises(ValueError, match=r"put \{source\} where"):
        to_features(TASK, tokenizer, EXAMPLES, model=model, template="{text}", **LENGTHS)
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        TaskCollator(tokenizer, model)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end mark"):
        to_features(TASK, tokenizer, EXAMPLES, model=model, **LENGTHS)
