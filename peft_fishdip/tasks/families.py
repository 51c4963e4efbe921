"""The kinds of models that the tasks work with, and how to load one for a task."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from .base import Task
from .relation import RelationTask
from .sequence_classification import SequenceClassificationTask
from .token_classification import TokenClassificationTask

SEQ2SEQ, CAUSAL, TOKENS, SEQUENCES = "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "SEQ_CLS"


def task_type(model: Any) -> str:
    """What a model does, by PEFT's name: "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS" or "SEQ_CLS".

    `FishDipConfig(task_type=task_type(model))` is the config for a model from `load_model`.

    Raises:
        ValueError: it does none of these, such as an encoder without a classifier.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    name, config = type(base).__name__, getattr(base, "config", None)
    if name.endswith("ForTokenClassification"):
        return TOKENS
    if name.endswith("ForSequenceClassification"):
        return SEQUENCES
    if getattr(config, "is_encoder_decoder", False):
        return SEQ2SEQ
    if not is_encoder(config) and getattr(base, "can_generate", bool)():
        return CAUSAL
    raise ValueError(
        f"{name} neither writes text nor has a classifier of tokens or texts; load it with load_model(name, task), or "
        "with AutoModelForSeq2SeqLM, AutoModelForCausalLM or, for an encoder, AutoModelForTokenClassification"
    )


def is_encoder(config: Any) -> bool:
    """Whether models of a config read in both directions, and write no text."""
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False):
        return False
    kind = getattr(config, "model_type", "")
    return kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def load_model(name: str, task: Task[Any], **options: Any) -> tuple[Any, Any]:
    """A pretrained model for a task, and its tokenizer.

    Args:
        name: Hub id or folder of an encoder-decoder model (T5, BART), a decoder-only model (Qwen, Llama, Gemma) or an
            encoder (BERT, DeBERTa, ModernBERT). An encoder gets a new classifier: of the task's tags, or of the
            relations of a RelationTask.
        task: what the model is to learn.
        options: further arguments of `from_pretrained`, such as `dtype` or `revision`.

    Returns:
        The model and the tokenizer. A tokenizer without a padding token pads with its end mark, which the attention
        mask hides and labels leave out.

    Raises:
        ValueError: an encoder cannot do the task, or the tokenizer has neither a padding token nor an end mark.
    """
    shared = {key: options[key] for key in ("revision", "cache_dir", "local_files_only", "token") if key in options}
    config = AutoConfig.from_pretrained(name, **shared)
    tokenizer = AutoTokenizer.from_pretrained(name, **shared)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {name!r} has no padding token and no end mark; set its pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM.from_pretrained(name, **options), tokenizer
    if not is_encoder(config):
        return AutoModelForCausalLM.from_pretrained(name, **options), tokenizer
    classes = as_classification(task)
    numbers = dict(enumerate(classes.classes))
    options |= {"num_labels": len(numbers), "id2label": numbers, "label2id": {x: i for i, x in numbers.items()}}
    of_words = isinstance(classes, TokenClassificationTask)
    auto: Any = AutoModelForTokenClassification if of_words else AutoModelForSequenceClassification
    return auto.from_pretrained(name, **options), tokenizer


def as_classification(task: Task[Any]) -> TokenClassificationTask[Any] | SequenceClassificationTask:
    """A task as one for a classifier; a ValueError if it has no such form."""
    return SequenceClassificationTask(task) if isinstance(task, RelationTask) else TokenClassificationTask(task)


def token_classes(task: Task[Any], model: Any) -> TokenClassificationTask[Any]:
    """A task as tags of words, for a model with a token classifier; a ValueError if they do not fit."""
    found = as_classification(task)
    if not isinstance(found, TokenClassificationTask):
        raise ValueError(
            f"the task {task.name!r} is about whole texts, and {type(model).__name__} classifies tokens; load a model "
            "with load_model(name, task), or with AutoModelForSequenceClassification"
        )
    check_classes(found.classes, model)
    return found


def sequence_classes(task: Task[Any], model: Any) -> SequenceClassificationTask:
    """A task as classes of texts, for a model with a sequence classifier; a ValueError if they do not fit."""
    if not isinstance(task, RelationTask):
        raise ValueError(
            f"the task {task.name!r} is about words of a text, and {type(model).__name__} classifies whole texts; load "
            "a model with load_model(name, task)"
        )
    found = SequenceClassificationTask(task)
    check_classes(found.classes, model)
    return found


def check_classes(classes: list[str], model: Any) -> None:
    """Refuse a classifier with other classes, or in another order."""
    own = [name for _, name in sorted(model.config.id2label.items())]
    if own != classes:
        raise ValueError(
            f"the classifier of {type(model).__name__} has the classes {', '.join(own)}, and the task "
            f"{', '.join(classes)}; load it with load_model(name, task), or with these as id2label"
        )
