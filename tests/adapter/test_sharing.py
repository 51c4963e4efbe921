"""What others do with an adapter: pipelines, AutoPeftModel classes, the hub, the model card."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    AutoPeftModelForSeq2SeqLM,
    AutoPeftModelForSequenceClassification,
    PeftModel,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, pipeline

from peft_fishdip import FishDipConfig, tuner_of
from peft_fishdip.adapter.model_card import BEGIN, END
from peft_fishdip.fingerprint import digest

from ..support.hub import local_hub
from ..support.models import (
    FAMILIES,
    VOCABULARY,
    bert_classifier,
    classifier_examples,
    gpt2,
    padded,
    random_scores,
    randomise,
    shapes_of,
    support_size,
    tied_t5,
    tuned,
)

AUTO: dict[str, Any] = {
    "t5": (AutoPeftModelForSeq2SeqLM, "SEQ_2_SEQ_LM"),
    "bert": (AutoPeftModelForSequenceClassification, "SEQ_CLS"),
    "gpt2": (AutoPeftModelForCausalLM, "CAUSAL_LM"),
}


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(VOCABULARY)}
    made = Tokenizer(WordLevel(words, unk_token="w2"))
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="w0", eos_token="w1", unk_token="w2")


TEXTS = ["w3 w9 w17", "w20 w5", "w8 w8 w30 w41"]


def scored(base: Any, make: Any, **settings: Any) -> Any:
    """An adapter with inactive entries and large deltas."""
    model = tuned(base, density=0.2, **settings)
    for start in (0, 3):
        model.base_model.update_mask(make(6)[start : start + 3], step=start)
        randomise(model, seed=start, scale=0.5)
    return model.eval()


# ----- pipelines ----------------------------------------------------------------------------------------------------


def test_a_classifier_s_pipeline_answers_with_the_adapter_also_merged(tmp_path: Path) -> None:
    model = scored(bert_classifier(), classifier_examples, task_type="SEQ_CLS")
    model.save_pretrained(str(tmp_path))
    base = pipeline("text-classification", model=bert_classifier(), tokenizer=tokenizer(), top_k=None)(TEXTS)
    answers = pipeline("text-classification", model=model, tokenizer=tokenizer(), top_k=None)(TEXTS)
    assert answers != base
    loaded = PeftModel.from_pretrained(bert_classifier(), str(tmp_path))
    for other in (loaded, loaded.merge_and_unload()):
        assert pipeline("text-classification", model=other, tokenizer=tokenizer(), top_k=None)(TEXTS) == answers


def test_a_language_model_s_pipeline_generates_with_the_adapter_also_merged() -> None:
    model = scored(gpt2(), FAMILIES["gpt2"][1], task_type="CAUSAL_LM")
    settings = {"max_new_tokens": 6, "do_sample": False}
    base, answers, merged = (
        pipeline("text-generation", model=each, tokenizer=tokenizer())(TEXTS, **settings)
        for each in (gpt2(), model, model.merge_and_unload())
    )
    assert base != answers == merged


# ----- AutoPeftModel ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("family", AUTO)
def test_auto_classes_find_base_and_adapter(family: str, low_cpu_mem_usage: bool, tmp_path: Path) -> None:
    (build, make), (auto, task) = FAMILIES[family], AUTO[family]
    build().save_pretrained(tmp_path / "base")
    base = type(build()).from_pretrained(tmp_path / "base")
    model = scored(base, make, task_type=task)
    model.save_pretrained(str(tmp_path / "adapter"))
    loaded = auto.from_pretrained(str(tmp_path / "adapter"), low_cpu_mem_usage=low_cpu_mem_usage)
    with torch.no_grad():
        batch = padded(make(3))
        expected = model(**batch).logits
        assert torch.equal(loaded.eval()(**batch).logits, expected)
        assert not torch.equal(build()(**batch).logits, expected)
    assert loaded.base_model.mask().keys() == model.base_model.mask().keys()


# ----- the hub ------------------------------------------------------------------------------------------------------

PUSH = """
import sys, torch
sys.path.insert(0, {root!r})
from huggingface_hub import upload_folder
from peft import PeftModel
from tests.support.models import padded, seq2seq_examples, tied_t5, tuned
model = tuned(tied_t5(), task_type="SEQ_2_SEQ_LM", init_weights=False)
for way in ("push_to_hub", "upload_folder"):
    if way == "push_to_hub":  # transformers puts a card of its own, or the remote one, in place of every other
        model.push_to_hub("somebody/name")
    else:
        model.save_pretrained({folder!r})
        upload_folder(repo_id="somebody/name", folder_path={folder!r})
    loaded = PeftModel.from_pretrained(tied_t5(), "somebody/name", strict=True, force_download=True)
    with torch.no_grad():
        assert torch.equal(*(each(**padded(seq2seq_examples(3))).logits for each in (model, loaded)))
"""


def test_a_pushed_adapter_comes_back_from_the_hub(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    settings = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_none",
        "NO_PROXY": "127.0.0.1",
    }
    with local_hub() as hub:
        code = PUSH.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path / "adapter"))
        environment = {**kept, **settings, "HF_ENDPOINT": hub.url}
        command = [sys.executable, "-W", "ignore", "-c", code]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert set(hub.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert "## Fish-Dip adapter" in hub.files["README.md"].decode()
    assert hub.requests.count("POST /api/models/somebody/name/commit/main") == 2
    assert hub.requests.count("GET /somebody/name/resolve/main/adapter_model.safetensors") >= 2


# ----- the model card -----------------------------------------------------------------------------------------------


def row(card: str, name: str) -> str:
    [line] = [line for line in card.splitlines() if line.startswith(f"| {name} | ")]
    return line.removeprefix(f"| {name} | ").removesuffix(" |")


def test_the_card_tells_what_the_adapter_is(tmp_path: Path) -> None:
    bert_classifier().save_pretrained(tmp_path / "base")
    base = type(bert_classifier()).from_pretrained(tmp_path / "base")
    model = scored(base, classifier_examples, task_type="SEQ_CLS", update_interval=50)
    update = model.base_model.update_mask(classifier_examples(6)[1:4], step=150)
    model.save_pretrained(str(tmp_path / "adapter"))
    card = (tmp_path / "adapter" / "README.md").read_text()
    total, support = sum(shape.numel() for shape in shapes_of(model).values()), support_size(model)
    assert row(card, "base model") == f"`{tmp_path}/base`"
    assert row(card, "targeted parameters (N)") == f"{total:,} in {len(model.base_model.mask())} tensors"
    assert row(card, "density") == "0.2"
    assert row(card, "trainable at a time (K)") == f"{int(0.2 * total):,}"
    assert row(card, "trained in all (support)") == f"{support:,}, {100 * support / total:.2f}% of N"
    assert row(card, "mask updates") == "3, one every 50 optimizer steps"
    assert row(card, "last update") == (
        f"before step 150: 3 examples with losses up to {max(update.losses):.3g}, "
        f"{100 * update.overlap:.1f}% of the mask stayed"
    )
    fingerprint = row(card, "fingerprint of the targeted base weights")
    assert fingerprint == f"`sha256:{digest(model.peft_config['default'].base_fingerprint)}`"
    assert card.index("# Model Card for Model ID") < card.index(BEGIN) < card.index("### Framework versions")
    assert card.startswith("---\n")
    needed = [card.index(text) for text in ("pip install peft-fishdip", "`KeyError: 'FISHDIP'`", "```python")]
    assert card.index(BEGIN) < min(needed) < max(needed) < card.index("| base model |")
    assert "compact file" not in card
    assert "base_model:" in card.split("---")[1]


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_code_on_the_card_loads_the_adapter(stored: torch.dtype, tmp_path: Path) -> None:
    bert_classifier().to(stored).save_pretrained(tmp_path / "base")
    for task in (None, "SEQ_CLS"):
        base = type(bert_classifier()).from_pretrained(tmp_path / "base", dtype=torch.float32)
        model = scored(base, classifier_examples, task_type=task)
        model.save_pretrained(str(tmp_path / "adapter"))
        card = (tmp_path / "adapter" / "README.md").read_text()
        code = card.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", str(tmp_path / "adapter"))
        names: dict[str, Any] = {}
        exec(code, names)
        with torch.no_grad():
            batch = padded(classifier_examples(3))
            assert torch.equal(names["model"](**batch).logits, model(**batch).logits)


def test_a_card_is_updated_and_what_others_wrote_stays(tmp_path: Path) -> None:
    model = scored(bert_classifier(), classifier_examples)
    model.save_pretrained(str(tmp_path))
    path = tmp_path / "README.md"
    path.write_text(path.read_text().replace("### Framework versions", "My own words.\n\n### Framework versions"))
    model.base_model.set_mask(random_scores(model))
    model.save_pretrained(str(tmp_path))
    card = path.read_text()
    assert "My own words.\n\n### Framework versions" in card
    assert card.count(BEGIN) == card.count(END) == card.count("## Fish-Dip adapter") == 1
    assert row(card, "mask updates") == "3, one at optimizer steps 10, 20, 40, 80 and 160, then one every 100"
    assert row(card, "last update").startswith("before step 2, by given scores: ")
    path.write_text("no title, no header")
    model.save_pretrained(str(tmp_path))
    assert "no title, no header" in path.read_text()
    assert path.read_text().count("## Fish-Dip adapter") == 1


def test_the_card_of_a_compact_file_tells_what_values_are(tmp_path: Path) -> None:
    model = tuned(gpt2().bfloat16(), compact=True, init_weights=False, density=0.9)
    model.save_pretrained(str(tmp_path))
    [tensors] = {len(found) for found in (model.base_model.mask(), model.peft_config["default"].compact_storage)}
    expected = f"positions as gaps, deltas in float32 of {tensors} tensors"
    assert row((tmp_path / "README.md").read_text(), "compact file") == expected
    model.requires_grad_(False).save_pretrained(str(tmp_path))
    expected = f"effective weights in bfloat16 of {tensors} tensors; it loads only onto the base with this fingerprint"
    assert row((tmp_path / "README.md").read_text(), "compact file") == f"positions as gaps, {expected}"


def test_named_adapters_and_transformers_own_saves_have_a_card_and_plain_configs_none(tmp_path: Path) -> None:
    model = tuned(bert_classifier())
    model.add_adapter("second", FishDipConfig(density=0.5, update_interval=None))
    model.save_pretrained(str(tmp_path / "peft"))
    card = (tmp_path / "peft" / "second" / "README.md").read_text()
    assert row(card, "density") == "0.5"
    assert row(card, "mask updates") == "0, the first mask stays"
    assert "last update" not in card
    assert row((tmp_path / "peft" / "README.md").read_text(), "density") == "0.05"
    plain = tied_t5()
    plain.add_adapter(FishDipConfig())
    plain.save_pretrained(tmp_path / "plain")
    assert "library_name: peft" in (tmp_path / "plain" / "README.md").read_text()
    tuner_of(plain).peft_config["default"].save_pretrained(tmp_path / "config")
    FishDipConfig().save_pretrained(tmp_path / "config")
    assert [path.name for path in (tmp_path / "config").iterdir()] == ["adapter_config.json"]
