"""The tiny model and tokenizer of all tests of the benchmarks."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from benchmarks import toy

SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def tokenizer(sentinels=0):
    """A unigram vocabulary of at most 400 pieces, learned from generated sentences; then the sentinels."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400,
        special_tokens=[*SPECIAL.values()],
        unk_token="<unk>",
        initial_alphabet=[chr(code) for code in range(33, 127)],
        show_progress=False,
    )
    made.train_from_iterator([" ".join(example.tokens) for example in toy.sentences(300, seed=0)], trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    extra = [f"<extra_id_{i}>" for i in range(sentinels)]
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL, extra_special_tokens=extra)


def t5_config(kind=T5Config, **changes):
    """One layer, two heads and 40 words, where nothing else is said."""
    options = {"vocab_size": 40, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 2}
    options |= {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return kind(**(options | changes))


def t5(**changes):
    """The same random weights each time."""
    torch.manual_seed(0)
    return T5ForConditionalGeneration(t5_config(**changes))


SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama(vocab_size, **changes):
    """A decoder-only model, with the same random weights each time."""
    torch.manual_seed(0)
    own = {"max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **(SIZES | own | changes)))


def bert(vocab_size, **changes):
    """An encoder, with the same random weights each time."""
    torch.manual_seed(0)
    return BertModel(BertConfig(vocab_size=vocab_size, **({"max_position_embeddings": 256} | SIZES | changes)))


def saved(folder, make, words):
    """The folder of a model and its tokenizer."""
    make(len(words)).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)
