"""Tiny models of each family with adapters, and sentences that they can learn."""

from __future__ import annotations

import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from peft_fishdip import FishDipConfig
from peft_fishdip.tasks import NerTask, TokenClassificationTask, task_type, to_examples

from ...support.extracting import DOCUMENTS, NAMES
from ..tiny import bpe_tokenizer, tiny_tokenizer

TASK = NerTask(NAMES)
LABELLED = to_examples(DOCUMENTS) * 3
TEXTS = ["Ann Lee left Rome .", "Bo lives in Oslo .", "Rome .", "Ann calls Bo .", "Oslo calls Rome .", "Bo left ."]
WORDS = tiny_tokenizer([*TEXTS, *(text for example in LABELLED for text in TASK.encode(example)[:2])])


def bert(dropout=0.1):
    torch.manual_seed(0)
    names = dict(enumerate(TokenClassificationTask(TASK).classes))
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(WORDS),
        pad_token_id=0,
        max_position_embeddings=64,
        id2label=names,
        label2id={name: i for i, name in names.items()},
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
        **sizes,
    )
    return BertForTokenClassification(config), WORDS


def t5():
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.1}
    return T5ForConditionalGeneration(T5Config(vocab_size=len(WORDS), **sizes, **ids)), WORDS


def llama():
    torch.manual_seed(0)
    tokenizer = bpe_tokenizer(TEXTS)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"eos_token_id": 1, "bos_token_id": None, "pad_token_id": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **ids, **sizes)
    return LlamaForCausalLM(config), tokenizer


FAMILIES = {"bert": bert, "t5": t5, "llama": llama}
TARGETS = {
    "bert": ["query", "value"],
    "t5": ["k", "v", "wo"],
    "llama": ["k_proj", "v_proj", "down_proj"],
}


def config_of(method, family, model):
    kind = task_type(model)
    if method == "fishdip":
        return FishDipConfig(task_type=kind, density=0.2, update_interval=5)
    if method == "ia3":
        feedforward = [name for name in TARGETS[family] if name in ("wo", "down_proj")]
        return IA3Config(task_type=kind, target_modules=TARGETS[family], feedforward_modules=feedforward)
    return LoraConfig(task_type=kind, r=2, target_modules=TARGETS[family][:2])


def adapted(family, method):
    """A model with a new adapter, the same each time, and its tokenizer."""
    model, tokenizer = FAMILIES[family]()
    return get_peft_model(model, config_of(method, family, model)), tokenizer
