"""SentencePiece unigram vocabularies, and the transformers tokenizer that reads text as SentencePiece does.

Ids: 0 padding, 1 end of sequence, 2 unknown (never met, there are bytes to fall back on), then the pieces of the format
`[ ] | =`, the 256 bytes, the pieces learned from text. Sentinels, if asked for, come last and in falling order as in
T5: of n ids and 100 sentinels, `<extra_id_i>` is n - 1 - i.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import sentencepiece
from tokenizers import Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = 0, 1, 2
FORMAT_PIECES = ["[", "]", "|", "="]
NEVER = -1e6
"""Score of pieces that no text is made of, though it may spell their names: `</s>`, `<0x41>`."""


def train_tokenizer(
    sentences: Iterable[str],
    vocab_size: int,
    *,
    sentinels: int = 0,
    required_characters: str = "",
    max_length: int | None = None,
) -> PreTrainedTokenizerFast:
    """A SentencePiece unigram vocabulary of the sentences, with bytes to fall back on and the format's pieces.

    transformers' T5Tokenizer does not fall back on bytes; this one does, and keeps doing so when it is loaded with
    AutoTokenizer. White space is one space, none at the ends; text is NFKC-normalised.

    Args:
        sentences: text to learn from, read once.
        vocab_size: pieces without the sentinels; fewer if the text does not give as many.
        sentinels: how many `<extra_id_i>` there are.
        required_characters: become pieces however rare they are.
        max_length: `model_max_length` of the tokenizer.

    Raises:
        RuntimeError, ValueError: SentencePiece cannot make a vocabulary of that size, or got no text.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        user_defined_symbols=FORMAT_PIECES,
        required_chars="".join(sorted(set(required_characters) - set(FORMAT_PIECES))),
        byte_fallback=True,
        pad_id=PAD,
        eos_id=EOS,
        unk_id=UNK,
        bos_id=-1,
        minloglevel=2,
    )
    return from_sentencepiece(model.getvalue(), sentinels=sentinels, max_length=max_length)


def from_sentencepiece(model: bytes, *, sentinels: int = 0, max_length: int | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of a serialised SentencePiece unigram model whose ids begin as above."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocabulary = []
    for i in range(pieces.get_piece_size()):
        no_text = pieces.is_control(i) or pieces.is_byte(i) or pieces.is_unknown(i)
        vocabulary.append((pieces.id_to_piece(i), NEVER if no_text else pieces.get_score(i)))
    backend = Backend(Unigram(vocabulary, unk_id=UNK, byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    options = {} if max_length is None else {"model_max_length": max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="right",
        extra_special_tokens=[f"<extra_id_{i}>" for i in reversed(range(sentinels))],
        **options,
    )
