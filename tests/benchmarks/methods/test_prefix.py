"""Prefix tuning: against an oracle, in generation, under padding, trained, saved, switched and refused."""

import copy

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5EncoderModel, T5ForConditionalGeneration

from benchmarks.methods import FullPrefixConfig

from .. import tiny

LAYERS, D_MODEL, HEADS, D_KV, TOKENS, BOTTLENECK = 2, 32, 4, 6, 3, 5
INNER = HEADS * D_KV
SITES = ["encoder", "decoder", "cross"]


def t5_config(kind=T5Config, **changes):
    own = {"d_model": D_MODEL, "d_kv": D_KV, "num_layers": LAYERS, "num_heads": HEADS, "dropout_rate": 0.0}
    return tiny.t5_config(kind, **(own | changes))


def base_model(kind=T5ForConditionalGeneration, config=None, attention="sdpa"):
    """Random weights, such that positions matter and that the generated words differ."""
    torch.manual_seed(1)
    model = kind(config or t5_config()).eval()
    model.set_attn_implementation(attention)
    for name, parameter in model.named_parameters():
        if "relative_attention_bias" in name:
            parameter.data.normal_()
        elif name.endswith((".o.weight", ".wo.weight")):
            parameter.data.mul_(12)  # or the model would repeat its last word
    return model


def prefixed(model=None, **options):
    torch.manual_seed(2)
    config = FullPrefixConfig(**({"num_virtual_tokens": TOKENS, "bottleneck_size": BOTTLENECK} | options))
    model = get_peft_model(model or base_model(), config).eval()
    enlarge(model)
    return model


def enlarge(model):
    """Prefixes that cannot be overlooked."""
    for name, parameter in model.named_parameters():
        if name.endswith("default.keys_values"):
            parameter.data.mul_(50)
        elif ".full_prefix_tokens." in name:
            parameter.data.mul_(5)


@pytest.fixture(params=[None, BOTTLENECK], ids=["direct", "mlp"])
def bottleneck(request):
    return request.param


@pytest.fixture(params=["sdpa", "eager"])
def attention(request):
    return request.param


def batch():
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 40, (3, 7), generator=generator)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]])
    labels = torch.randint(2, 40, (3, 6), generator=generator)
    labels[1, 4:] = -100
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


# ----- an oracle: T5 with prefixes, in plain products and softmax -----------------------------------------------------


def oracle(weights, prefixes, ids, mask, decoder_ids):
    """Logits (batch, targets, vocabulary). Distances must stay below 8, where each has a bucket of its own.

    `weights` is the base's state dict, `prefixes` maps (site, layer) to keys and values of shape (tokens, heads, d_kv).
    """

    def norm(x, name):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.layer_norm.weight"]

    def attend(x, memory, visible, name, bias, prefix):
        query, key, value = (
            (states @ weights[f"{name}.{part}.weight"].T).unflatten(-1, (HEADS, D_KV))
            for part, states in (("q", x), ("k", memory), ("v", memory))
        )
        rows = []
        for b in range(len(x)):
            heads = []
            for h in range(HEADS):
                scores = query[b, :, h] @ key[b, :, h].T + bias[h]
                scores = scores.masked_fill(~visible[b], -torch.inf)
                before = query[b, :, h] @ prefix[0][:, h].T
                shares = torch.cat([before, scores], 1).softmax(1)
                heads.append(shares @ torch.cat([prefix[1][:, h], value[b, :, h]]))
            rows.append(torch.cat(heads, 1))
        return torch.stack(rows) @ weights[f"{name}.o.weight"].T

    def feed_forward(x, name):
        hidden = (norm(x, name) @ weights[f"{name}.DenseReluDense.wi.weight"].T).relu()
        return x + hidden @ weights[f"{name}.DenseReluDense.wo.weight"].T

    def bias(stack, length, both_ways):
        table = weights[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        i, j = torch.arange(length)[:, None], torch.arange(length)[None, :]
        distance = j - i
        bucket = distance.abs() + 16 * (distance > 0) if both_ways else (-distance).clamp(min=0)
        return table[bucket].permute(2, 0, 1)

    source, target = ids.shape[1], decoder_ids.shape[1]
    words = mask.bool()[:, None, :]
    x = weights["shared.weight"][ids]
    for i in range(LAYERS):
        name = f"encoder.block.{i}.layer"
        normed = norm(x, f"{name}.0")
        encoder_bias = bias("encoder", source, True)
        x = x + attend(normed, normed, words, f"{name}.0.SelfAttention", encoder_bias, prefixes["encoder", i])
        x = feed_forward(x, f"{name}.1")
    memory = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights["encoder.final_layer_norm.weight"]
    past = torch.ones(target, target).tril().bool().expand(len(ids), -1, -1)
    no_bias = torch.zeros(HEADS, 1, 1)
    y = weights["shared.weight"][decoder_ids]
    for i in range(LAYERS):
        name = f"decoder.block.{i}.layer"
        normed = norm(y, f"{name}.0")
        decoder_bias = bias("decoder", target, False)
        y = y + attend(normed, normed, past, f"{name}.0.SelfAttention", decoder_bias, prefixes["decoder", i])
        normed = norm(y, f"{name}.1")
        y = y + attend(normed, memory, words, f"{name}.1.EncDecAttention", no_bias, prefixes["cross", i])
        y = feed_forward(y, f"{name}.2")
    y = y / (y.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights["decoder.final_layer_norm.weight"]
    return y * D_MODEL**-0.5 @ weights["shared.weight"].T


def prefixes_of(checkpoint, bottleneck):
    """From the tensors of a saved adapter: (site, layer) to keys and values, (tokens, heads, d_kv) each."""
    places = {"encoder": ("encoder", "0.SelfAttention"), "decoder": ("decoder", "0.SelfAttention")}
    places["cross"] = ("decoder", "1.EncDecAttention")
    result = {}
    for site, (stack, place) in places.items():
        names = [f"base_model.model.{stack}.block.{i}.layer.{place}" for i in range(LAYERS)]
        for i, name in enumerate(names):
            if bottleneck is None:
                flat = checkpoint[f"{name}.full_prefix_tokens.keys_values"]
            else:
                embedding, first, offset = (
                    checkpoint[f"{names[0]}.full_prefix_trunk.{part}"] for part in ("embedding", "weight", "bias")
                )
                hidden = torch.tanh(embedding @ first.T + offset)
                second = checkpoint[f"{name}.full_prefix_tokens.weight"]
                flat = hidden @ second.T + checkpoint[f"{name}.full_prefix_tokens.bias"]
            result[site, i] = flat[:, :INNER].unflatten(1, (HEADS, D_KV)), flat[:, INNER:].unflatten(1, (HEADS, D_KV))
    return result


def test_logits_are_those_of_an_independent_computation(tmp_path, bottleneck, attention):
    model = prefixed(base_model(attention=attention), bottleneck_size=bottleneck)
    model.save_pretrained(tmp_path)
    prefixes = prefixes_of(load_file(tmp_path / "adapter_model.safetensors"), bottleneck)
    weights = base_model().state_dict()
    inputs = batch()
    decoder_ids = torch.cat([torch.zeros(3, 1, dtype=torch.long), inputs["labels"][:, :-1].clamp(min=0)], 1)
    with torch.no_grad():
        logits = model(**inputs).logits
        expected = oracle(weights, prefixes, inputs["input_ids"], inputs["attention_mask"], decoder_ids)
        without = base_model()(**inputs).logits
    assert (logits - without).abs().max() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


# ----- generation -----------------------------------------------------------------------------------------------------


def sources():
    return {key: batch()[key] for key in ("input_ids", "attention_mask")}


@torch.no_grad()
def test_generation_with_a_cache_is_what_teacher_forcing_finds_likeliest(bottleneck, attention):
    model = prefixed(base_model(attention=attention), bottleneck_size=bottleneck)
    generated = model.generate(**sources(), max_new_tokens=9, do_sample=False, eos_token_id=None)
    assert len(set(generated.flatten().tolist())) > 5
    logits = model(**sources(), decoder_input_ids=generated[:, :-1], use_cache=False).logits
    assert torch.equal(logits.argmax(-1), generated[:, 1:])


@torch.no_grad()
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"cache_implementation": "static", "disable_compile": True}])
def test_beams_and_static_caches_find_what_no_cache_finds(options):
    model = prefixed()
    cached = model.generate(**sources(), max_new_tokens=6, eos_token_id=None, **options)
    plain = model.generate(
        **sources(), max_new_tokens=6, eos_token_id=None, use_cache=False, num_beams=options.get("num_beams", 1)
    )
    assert torch.equal(cached, plain)


@torch.no_grad()
def test_caches_hold_the_words_alone():
    inputs = batch()
    caches = prefixed()(**inputs, use_cache=True).past_key_values
    assert caches.self_attention_cache.get_seq_length() == inputs["labels"].shape[1]
    assert caches.cross_attention_cache.get_seq_length() == inputs["input_ids"].shape[1]


@torch.no_grad()
def test_a_padded_batch_gives_what_its_rows_give(attention):
    model = prefixed(base_model(attention=attention))
    inputs = batch()
    padded = model(**inputs).logits
    for row, length in enumerate(inputs["attention_mask"].sum(1)):
        alone = model(input_ids=inputs["input_ids"][row : row + 1, :length], labels=inputs["labels"][row : row + 1])
        torch.testing.assert_close(alone.logits[0], padded[row], rtol=1e-4, atol=1e-4)


# ----- what is where --------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("site", SITES)
def test_each_site_changes_the_logits_and_only_the_encoders_its_output(site):
    base, model = base_model(), prefixed(sites=[site])
    assert not torch.equal(model(**batch()).logits, base(**batch()).logits)
    before = base.encoder(**sources()).last_hidden_state
    after = model.get_base_model().encoder(**sources()).last_hidden_state
    assert torch.equal(before, after) == (site != "encoder")


@torch.no_grad()
def test_pefts_prefix_leaves_the_encoder_alone():
    model = get_peft_model(base_model(), PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=TOKENS))
    encoder = model.get_base_model().encoder
    assert torch.equal(encoder(**sources()).last_hidden_state, base_model().encoder(**sources()).last_hidden_state)


@pytest.mark.parametrize("sites", [SITES, ["decoder", "cross"], ["encoder"]])
def test_number_of_parameters(sites, bottleneck):
    model = prefixed(sites=sites, bottleneck_size=bottleneck)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    direct = len(sites) * LAYERS * 2 * TOKENS * INNER
    trunk = TOKENS * D_MODEL + D_MODEL * BOTTLENECK + BOTTLENECK
    mlp = len(sites) * (trunk + LAYERS * (BOTTLENECK + 1) * 2 * INNER)
    assert trainable == (direct if bottleneck is None else mlp)


def test_works_with_mt5_and_with_an_encoder_alone():
    mt5 = prefixed(base_model(MT5ForConditionalGeneration, t5_config(MT5Config)))
    assert torch.isfinite(mt5(**batch()).loss)
    encoder = base_model(T5EncoderModel)
    before = encoder(**sources()).last_hidden_state
    assert not torch.equal(prefixed(encoder, sites=["encoder"])(**sources()).last_hidden_state, before)


# ----- training -------------------------------------------------------------------------------------------------------


def test_only_prefixes_train_and_the_base_comes_back_bitwise(bottleneck):
    model = prefixed(bottleneck_size=bottleneck).train()
    before = {name: tensor.clone() for name, tensor in base_model().state_dict().items()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.05)
    losses = []
    for _ in range(15):
        loss = model(**batch()).loss
        loss.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in trainable)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    unloaded = model.unload()
    assert unloaded.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in unloaded.state_dict().items())
    with torch.no_grad():
        assert torch.equal(unloaded.eval()(**batch()).logits, base_model()(**batch()).logits)


@torch.no_grad()
def test_the_models_own_dropout_follows_its_mode(attention):
    base = base_model(config=t5_config(dropout_rate=0.3), attention=attention)
    model = get_peft_model(base, FullPrefixConfig(num_virtual_tokens=TOKENS, bottleneck_size=None))
    assert torch.equal(model(**batch()).logits, model(**batch()).logits)
    attend = model.train().get_base_model().encoder.block[0].layer[0].SelfAttention
    states = torch.randn(2, 5, D_MODEL)
    assert not torch.equal(attend(states)[0], attend(states)[0])


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant, bottleneck):
    gradients = []
    for checkpointing in (False, True):
        base = base_model()
        if checkpointing:
            base.activation_checkpointing_enable({"use_reentrant": reentrant})
        model = prefixed(base, bottleneck_size=bottleneck).train()
        model(**batch()).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.requires_grad])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_keeps_float32_prefixes(dtype, bottleneck):
    model = prefixed(base_model().to(dtype), bottleneck_size=bottleneck)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    output = model(**batch())
    output.loss.backward()
    assert output.logits.dtype == dtype
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


# ----- adapters -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def logits_of(model):
    return model.eval()(**batch()).logits


def test_a_loaded_adapter_computes_the_same_bits(tmp_path, bottleneck):
    model = prefixed(bottleneck_size=bottleneck)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base_model(), str(tmp_path), adapter_name="again")
    assert torch.equal(logits_of(again), logits_of(model))
    assert not any(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize("loaded", ["on the meta device first", "by transformers"])
def test_other_loaders_bring_the_same_tensors(tmp_path, bottleneck, loaded):
    model = prefixed(bottleneck_size=bottleneck)
    model.save_pretrained(tmp_path)
    again = base_model()
    if loaded == "by transformers":
        again.load_adapter(str(tmp_path))
    else:
        again = PeftModel.from_pretrained(again, str(tmp_path), low_cpu_mem_usage=True)
    tensors = {name: tensor for name, tensor in again.named_parameters() if ".full_prefix_" in name}
    saved = {name: tensor for name, tensor in model.named_parameters() if ".full_prefix_" in name}
    assert len(tensors) == len(saved)
    assert all(torch.equal(a, b) for a, b in zip(tensors.values(), saved.values(), strict=True))
    # tensors at other addresses may be multiplied in another order
    torch.testing.assert_close(logits_of(again), logits_of(model), rtol=1e-4, atol=1e-4)


def test_a_prefix_without_its_mlp_computes_the_same_bits_and_is_smaller(tmp_path):
    model = prefixed()
    before = logits_of(model)
    model.base_model.drop_reparametrisation()
    assert torch.equal(logits_of(model), before)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable == 3 * LAYERS * 2 * TOKENS * INNER
    model.save_pretrained(tmp_path)
    assert torch.equal(logits_of(PeftModel.from_pretrained(base_model(), str(tmp_path))), before)
    with pytest.raises(ValueError, match="no adapter 'x'; there are default"):
        model.base_model.drop_reparametrisation("x")


def test_adapters_are_switched_disabled_and_deleted(bottleneck):
    base, model = logits_of(base_model()), prefixed(bottleneck_size=bottleneck)
    first = logits_of(model)
    model.add_adapter("second", FullPrefixConfig(num_virtual_tokens=2, bottleneck_size=None, sites=["cross"]))
    assert torch.equal(logits_of(model), first)
    model.set_adapter("second")
    second = logits_of(model)
    assert not torch.equal(second, first)
    assert {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad} == {"second"}
    model.base_model.set_adapter(["default", "second"])
    both = logits_of(model)
    assert not torch.equal(both, first)
    assert not torch.equal(both, second)
    with model.disable_adapter():
        assert torch.equal(logits_of(model), base)
    model.set_adapter("default")
    assert torch.equal(logits_of(model), first)
    model.delete_adapter("second")
    assert torch.equal(logits_of(model), first)
    assert torch.equal(logits_of(model.unload()), base)


def test_a_deep_copy_shares_nothing_with_its_model():
    model = prefixed()
    twin = copy.deepcopy(model)
    before = logits_of(twin)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(logits_of(twin), before)


# ----- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_virtual_tokens": 0}, r"num_virtual_tokens=0 must be a positive int"),
        ({"num_virtual_tokens": True}, r"num_virtual_tokens=True must be a positive int"),
        ({"bottleneck_size": 0}, r"bottleneck_size=0 must be a positive int, such as 512, or None"),
        ({"bottleneck_size": 1.5}, r"bottleneck_size=1.5 must be"),
        ({"sites": []}, r"sites=\[\] must be a list of one or more of 'encoder', 'decoder', 'cross'"),
        ({"sites": "encoder"}, r"sites='encoder' must be a list"),
        ({"sites": ["encoder", "head"]}, r"sites=\['encoder', 'head'\] must be a list"),
        ({"sites": None}, r"sites=None must be a list"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FullPrefixConfig(**options)


def test_defaults_are_those_of_the_paper():
    config = FullPrefixConfig(sites=("cross", "encoder", "decoder"))
    assert (config.num_virtual_tokens, config.bottleneck_size, config.sites) == (30, 512, SITES)


def test_a_model_without_the_site_is_refused():
    with pytest.raises(ValueError, match="T5EncoderModel has no attention at 'decoder'; use a T5"):
        prefixed(base_model(T5EncoderModel))


@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
def test_merging_is_refused_and_changes_nothing(merge):
    model = prefixed()
    before = logits_of(model)
    with pytest.raises(ValueError, match=r"a prefix cannot be merged.*unload"):
        getattr(model, merge)()
    assert torch.equal(logits_of(model), before)


def test_several_adapters_in_one_batch_are_refused():
    with pytest.raises(ValueError, match="call the model once for each"):
        prefixed()(**batch(), adapter_names=["default", "default", "__base__"])


def test_other_attention_implementations_are_refused():
    model = prefixed()
    model.get_base_model().config._attn_implementation = "flex_attention"
    model.get_base_model().encoder.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="'flex_attention' cannot have a prefix; load the model with 'sdpa'"):
        model.get_base_model().encoder.block[0].layer[0].SelfAttention(torch.zeros(1, 2, D_MODEL))
