"""Prompts of instruction-tuned models, and data sets of prompts and completions."""

from __future__ import annotations

import pytest
from datasets import Dataset

from peft_fishdip.tasks import to_features, to_prompt_completion

from .test_families import LENGTHS, TEXTS, llama
from .test_generation import EXAMPLES, TASK
from .tiny import bpe_tokenizer

TURNS = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] | trim }}<turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}<no thoughts>{% endif %}"
    "{{ m['content'] }}</s>\n{% endfor %}{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
BACKWARDS = "{% for m in messages | reverse %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}?{% endif %}"


@pytest.mark.parametrize(
    ("template", "prompt", "end"),
    [
        (TURNS, "<s><turn>user\n{}<turn>\n<turn>assistant\n", "<turn>"),
        (THINKING, "<turn>user\n{}</s>\n<turn>assistant\n<no thoughts>", "</s>"),
    ],
)
def test_chat_rows_are_conversations(template, prompt, end):
    tokenizer = bpe_tokenizer(TEXTS, chat_template=template)
    model = llama(tokenizer, max_position_embeddings=400)
    model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids(end), tokenizer.eos_token_id]
    rows = to_features(TASK, tokenizer, EXAMPLES, model=model, chat=True, max_source_length=200, max_target_length=90)
    for row, example in zip(rows, EXAMPLES, strict=True):
        encoded = TASK.encode(example)
        text = tokenizer.decode(row["input_ids"], clean_up_tokenization_spaces=False)
        assert text == prompt.format(encoded.source) + encoded.target + end
        targets = [label for label in row["labels"] if label != -100]
        assert tokenizer.decode(targets, clean_up_tokenization_spaces=False) == encoded.target + end


def test_a_chat_template_of_one_s_own_message():
    tokenizer = bpe_tokenizer(TEXTS, chat_template=TURNS)
    model = llama(tokenizer, max_position_embeddings=400)
    own = {"chat": True, "template": "Mark names: {source}", "max_source_length": 200, "max_target_length": 90}
    (row,) = to_features(TASK, tokenizer, EXAMPLES[1:2], model=model, **own)
    text = tokenizer.decode(row["input_ids"], clean_up_tokenization_spaces=False)
    assert text.startswith("<s><turn>user\nMark names: Rain .<turn>")


@pytest.mark.parametrize(
    ("template", "match"), [(None, "has no chat template"), (BACKWARDS, "does not begin with its prompt")]
)
def test_chat_templates_that_cannot_be_used_are_refused(template, match):
    tokenizer = bpe_tokenizer(TEXTS, chat_template=template)
    with pytest.raises(ValueError, match=match):
        to_features(TASK, tokenizer, EXAMPLES, model=llama(tokenizer), chat=True, **LENGTHS)


def test_prompts_and_completions():
    rows = to_prompt_completion(TASK, EXAMPLES[1:2])
    assert rows == [{"prompt": "Rain .\n", "completion": "Rain ."}]
    rows = to_prompt_completion(TASK, EXAMPLES[1:2], template="Mark: {source} ")
    assert rows == [{"prompt": "Mark: Rain . ", "completion": "Rain ."}]
    rows = to_prompt_completion(TASK, EXAMPLES[1:2], chat=True)
    message = {"role": "user", "content": "Rain ."}
    assert rows == [{"prompt": [message], "completion": [{"role": "assistant", "content": "Rain ."}]}]
    assert Dataset.from_list(to_prompt_completion(TASK, EXAMPLES)).column_names == ["prompt", "completion"]
