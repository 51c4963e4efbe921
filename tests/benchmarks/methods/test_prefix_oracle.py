"""Prefix tuning against an oracle: T5 with prefixes, in plain products and softmax."""

import torch
from safetensors.torch import load_file

from .prefixed import D_KV, D_MODEL, HEADS, INNER, LAYERS, base_model, batch, prefixed


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
