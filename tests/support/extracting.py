"""Annotated sentences, and tiny models in folders that have learnt them by heart, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from peft_fishdip.tasks import Document, JointTask, NerTask, Relation, Span, to_examples

from ..tasks.tiny import bpe_tokenizer, fit, tiny_model, tiny_tokenizer

NAMES = {"LOC": "location", "PER": "person"}
DOCUMENTS = [
    Document("Ann Lee lives in Oslo .", (Span(0, 7, "PER"), Span(17, 21, "LOC")), id="a"),
    Document("Rain .", (), id="b"),
    Document("Bo left Rome .", (Span(0, 2, "PER"), Span(8, 12, "LOC")), id="c"),
    Document("Rome calls Ann Lee .", (Span(0, 4, "LOC"), Span(11, 18, "PER")), id="d"),
]
_ANN, _OSLO = DOCUMENTS[0].spans
RELATED = [Document(DOCUMENTS[0].text, DOCUMENTS[0].spans, (Relation(_ANN, _OSLO, "lives_in"),), "a"), *DOCUMENTS[1:]]
QUICK = {"steps": 2, "learning_rate": 1e-4, "batch_size": 4, "progress": False, "device": "cpu"}
"""A training that changes next to nothing."""


def save(model, tokenizer, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def learnt_t5(folder: Path, documents=DOCUMENTS) -> str:
    """A T5 that writes the documents with their spans, by `NAMES`."""
    joint = any(document.relations for document in documents)
    task = JointTask(NAMES, {"lives_in": "lives in"}) if joint else NerTask(NAMES)
    pairs = [task.encode(example)[:2] for example in to_examples(documents)]
    tokenizer = tiny_tokenizer([text for pair in pairs for text in pair])
    model = tiny_model(len(tokenizer))
    fit(model, tokenizer, pairs, steps=120)
    return save(model, tokenizer, folder)


def random_llama(folder: Path) -> str:
    tokenizer = bpe_tokenizer([document.text for document in DOCUMENTS])
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"eos_token_id": 1, "bos_token_id": None, "pad_token_id": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **ids, **sizes)
    return save(LlamaForCausalLM(config), tokenizer, folder)


def random_bert(folder: Path) -> str:
    tokenizer = tiny_tokenizer([document.text for document in DOCUMENTS])
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=64, **sizes)
    return save(BertForMaskedLM(config), tokenizer, folder)


def write_doccano(path: Path, documents=DOCUMENTS) -> Path:
    rows = [{"text": d.text, "label": [[s.start, s.end, s.label] for s in d.spans]} for d in documents]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
