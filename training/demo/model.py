"""The demo model: a small Llama that can copy before its first training step.

Reading is mostly finding the same word again. A randomly started transformer this small spends millions of
tokens on a plateau before its attention discovers that, so the circuit is planted: a head that looks one
token back, and above it a head that looks for what followed the current token earlier (an induction head:
Olsson et al., "In-context Learning and Induction Heads", 2022); a second pair does the same for the last two
tokens. They are kept for the first steps of training and free afterwards. Above them, one head in each layer starts
by saying what it looks at; training tells it where to look, and another what belongs to which name: `Pointing`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import LlamaConfig, LlamaForCausalLM

from training.demo.packing import BIND, FOLLOW, LEAD

MARK = 4.0  # the constant first coordinate of every embedding; the others have a spread of 1
LOOK_BACK = 3.0  # how sharply the first head looks one token back
MATCH = 3.5  # how sharply the induction head matches
FIRST_BINDING_LAYER, FIRST_POINTING_LAYER = 1, 2
COPY_HEAD, PHRASE_HEAD = 0, 2  # of the first two layers
POINTING_HEAD, BINDING_HEAD = 0, 1  # of the layers from those above on
COPY = 0.15  # how loudly the output layer says what the induction head found
BOUND = 2.0  # how loudly a binding head says the name that it looks at
SAME_NAME = 1.0  # how sharply a pointing head prefers what is bound to the name in the question; 2 finds little else
PHRASE = 0.5  # how loudly the heads for two tokens write, against those for one


def make_config(*, vocab_size: int, pad: int, bos: int, eos: int, hidden: int, layers: int, heads: int,
                intermediate: int, max_length: int, rope_theta: float) -> LlamaConfig:  # fmt: skip
    """A Llama configuration.

    A large `rope_theta` leaves half of each head's dimensions almost free of position, so that a head can
    compare what words are rather than where they stand.
    """
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=intermediate, max_position_embeddings=max_length,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta}, tie_word_embeddings=False,
        pad_token_id=pad, bos_token_id=bos, eos_token_id=eos, initializer_range=hidden**-0.5,
    )  # fmt: skip


def meaning_size(hidden: int) -> int:
    """How many coordinates, after the first, hold what a token means; the rest tell it from all others."""
    return hidden // 2 - 1


def make_model(config: LlamaConfig, *, meanings: Tensor | None, seed: int) -> LlamaForCausalLM:
    """A fresh model in float32: layers start as the identity, two heads are planted.

    `meanings` (vocabulary, meaning_size) become part of the embeddings; without them that part is random too.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        _plant(model, meanings)
    return model


def _plant(model: LlamaForCausalLM, meanings: Tensor | None) -> None:
    """Head 0 of the first layer looks back, head 0 of the second continues what was seen before.

    Embeddings are large against what layers add at first, so that words stay recognisable while the layers
    learn; the output layer starts by reading only what the induction head wrote.
    """
    config = model.config
    hidden, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    rope: Any = config.rope_parameters
    slow = torch.arange(size // 4, size // 2)
    embeddings = model.model.embed_tokens.weight
    embeddings.normal_()
    embeddings[:, 0] = MARK
    if meanings is not None:
        embeddings[:, 1 : meaning_size(hidden) + 1] = meanings
    # All of one length, or the mark would be louder in some tokens than in others after normalisation.
    embeddings[:, 1:] *= (hidden - 1) ** 0.5 / embeddings[:, 1:].norm(dim=1, keepdim=True)
    read, write, found, said = (_orthonormal(size, hidden) for _ in range(4))

    first = model.model.layers[0].self_attn
    _look_back(first, 0, 1, rope["rope_theta"])
    first.v_proj.weight[:size] = read
    first.o_proj.weight[:, :size] = write.T

    second = model.model.layers[1].self_attn
    rows = torch.cat([slow, slow + size // 2])  # the rotary dimensions that hardly turn
    second.q_proj.weight[:size], second.k_proj.weight[:size] = 0.0, 0.0
    second.q_proj.weight[rows] = MATCH * read[: len(rows)]
    second.k_proj.weight[rows] = MATCH * write[: len(rows)]
    second.v_proj.weight[:size] = found
    second.o_proj.weight[:, :size] = said.T
    for layer in model.model.layers[FIRST_POINTING_LAYER:]:
        pointing = layer.self_attn
        pointing.v_proj.weight[:size] = found
        pointing.o_proj.weight[:, :size] = said.T
    plant_binding(model, rows)
    plant_phrases(model, rows)
    model.lm_head.weight.copy_(COPY * embeddings @ found.T @ said)


def plant_binding(model: LlamaForCausalLM, rows: Tensor) -> None:
    """Binding heads say the names that they look at, and pointing heads compare them: a match from the first step on.

    The question's end and an answer's beginning then carry the same vector if they are about the same thing.
    `rows`: the dimensions of a head that hardly turn with position.
    """
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    name, bound = (_orthonormal(size, config.hidden_size) for _ in range(2))
    for layer in model.model.layers[FIRST_BINDING_LAYER : FIRST_BINDING_LAYER + 2]:
        layer.self_attn.v_proj.weight[size : 2 * size] = name
        layer.self_attn.o_proj.weight[:, size : 2 * size] = BOUND * bound.T
    for layer in model.model.layers[FIRST_POINTING_LAYER:]:
        layer.self_attn.q_proj.weight[rows] += SAME_NAME * bound[: len(rows)]
        layer.self_attn.k_proj.weight[rows] += SAME_NAME * bound[: len(rows)]


def plant_phrases(model: LlamaForCausalLM, rows: Tensor) -> None:
    """A second induction head that wants two tokens to match: names share syllables, and one in common says little.

    Uses what the first one reads and writes. `rows` as in `plant_binding`.
    """
    config, head = model.config, PHRASE_HEAD
    size = config.hidden_size // config.num_attention_heads
    own, half = slice(head * size, (head + 1) * size), len(rows) // 2
    rope: Any = config.rope_parameters
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    read, before = first.v_proj.weight[:size].clone(), first.o_proj.weight[:, :size].T.clone()
    before_that = _orthonormal(size, config.hidden_size)

    _look_back(first, head, 2, rope["rope_theta"])
    first.v_proj.weight[own] = read
    first.o_proj.weight[:, own] = PHRASE * before_that.T

    second.q_proj.weight[own], second.k_proj.weight[own] = 0.0, 0.0
    matches = (slice(half), read, before), (slice(half, None), before, before_that / PHRASE)
    for chosen, asked, offered in matches:
        second.q_proj.weight[own.start + rows[chosen]] = MATCH * asked[: len(rows)][chosen]
        second.k_proj.weight[own.start + rows[chosen]] = MATCH * offered[: len(rows)][chosen]
    second.v_proj.weight[own] = second.v_proj.weight[:size].clone()
    second.o_proj.weight[:, own] = PHRASE * second.o_proj.weight[:, :size].clone()


def _look_back(attention: Any, head: int, distance: int, rope_theta: float) -> None:
    """Let a head attend to the token `distance` places before, by the rotary dimensions that turn fast."""
    size = attention.head_dim
    frequencies = rope_theta ** (-torch.arange(size // 2) * 2 / size)
    fast, start = torch.arange(size // 4), head * size
    turned = distance * frequencies[fast]
    attention.q_proj.weight[start : start + size] = 0.0
    attention.k_proj.weight[start : start + size] = 0.0
    attention.q_proj.weight[start + fast, 0] = LOOK_BACK
    attention.k_proj.weight[start + fast, 0] = LOOK_BACK * torch.cos(turned)
    attention.k_proj.weight[start + fast + size // 2, 0] = LOOK_BACK * torch.sin(turned)


def protect(model: LlamaForCausalLM, is_active: Callable[[], bool]) -> None:
    """Keep the planted copying heads as they are while `is_active`, so that the rest learns to use them first.

    The first hundred steps only learn how frequent tokens are, and would wash the heads away.
    """
    size = model.config.hidden_size // model.config.num_attention_heads
    everything = slice(None)
    for head in (COPY_HEAD, PHRASE_HEAD):
        own = slice(head * size, (head + 1) * size)
        for attention in (layer.self_attn for layer in model.model.layers[:2]):
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
                _freeze(projection.weight, own, everything, is_active)
            _freeze(attention.o_proj.weight, everything, own, is_active)
    _freeze(model.model.embed_tokens.weight, everything, slice(1), is_active)


def _freeze(weight: Tensor, rows: slice, columns: slice, is_active: Callable[[], bool]) -> None:
    """No gradient for this part of `weight` while `is_active`."""

    def masked(grad: Tensor) -> Tensor:
        if not is_active():
            return grad
        grad = grad.clone()
        grad[rows, columns] = 0.0
        return grad

    weight.register_hook(masked)  # type: ignore[no-untyped-call]


class Pointing:
    """Watches two heads in each of the upper layers: one looks for answers, one for names."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.size = model.config.hidden_size // model.config.num_attention_heads
        layers = [layer.self_attn for layer in model.model.layers[FIRST_BINDING_LAYER:]]
        self.binding = layers[:-1]
        self.heads = layers[FIRST_POINTING_LAYER - FIRST_BINDING_LAYER :]
        self.inputs: dict[Any, dict[str, Any]] = {}
        for layer in layers:
            layer.register_forward_pre_hook(
                lambda layer, _, kwargs: self.inputs.update({layer: kwargs}), with_kwargs=True
            )

    def losses(self, pointing: Tensor, roles: Tensor, spots: Tensor) -> tuple[dict[str, Tensor], float]:
        """How far the heads' attention in the last forward pass was from where it should have been.

        `pointing` (batch, pointers) int64 tokens, -1 for none; `roles` (batch, pointers) int64, LEAD, FOLLOW or BIND;
        `spots` (batch, pointers, length) bool. Returns the mean of -log(attention on the spots) over layers and over
        the pointers of each role (`point`, `follow`, `bind`), and the top head's mean attention on the spots of those
        that lead.
        """
        is_one = pointing >= 0
        looked = torch.stack([self._missed(layer, POINTING_HEAD, is_one, pointing, spots) for layer in self.heads])
        bound = torch.stack([self._missed(layer, BINDING_HEAD, is_one, pointing, spots) for layer in self.binding])
        role = roles[is_one]
        each = {"point": looked[:, role == LEAD], "follow": looked[:, role == FOLLOW], "bind": bound[:, role == BIND]}
        pointed = float((-each["point"][-1].detach()).exp().mean())
        return {name: missed.mean() for name, missed in each.items() if missed.numel()}, pointed

    def _missed(self, layer: Any, head: int, is_one: Tensor, pointing: Tensor, spots: Tensor) -> Tensor:
        """(pointers,): -log of the attention that a layer's head number `head` pays to the spots."""
        seen, rows = self.inputs[layer], slice(head * self.size, (head + 1) * self.size)
        batch = torch.arange(len(pointing))[:, None]
        states, (cos, sin) = seen["hidden_states"], seen["position_embeddings"]
        keys = _turned(linear(states, layer.k_proj.weight[rows]), cos, sin)
        queries = linear(states[batch, pointing], layer.q_proj.weight[rows])
        queries = _turned(queries, cos[batch, pointing], sin[batch, pointing])
        scores = queries @ keys.transpose(1, 2) / self.size**0.5
        visible = seen["attention_mask"][batch, 0, pointing]
        logs = scores.masked_fill(~visible, -torch.inf).log_softmax(dim=-1)[is_one]
        missed: Tensor = -logs.masked_fill(~spots[is_one], -torch.inf).logsumexp(dim=-1)
        return missed


def _turned(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding."""
    first, second = vectors.chunk(2, dim=-1)
    return vectors * cos + torch.cat([-second, first], dim=-1) * sin


def _orthonormal(rows: int, columns: int) -> Tensor:
    """(rows, columns) with orthonormal rows, blind to the first coordinate and to meanings."""
    blind = meaning_size(columns) + 1
    basis = torch.linalg.qr(torch.randn(columns - blind, rows)).Q.T
    return torch.cat([torch.zeros(rows, blind), basis], dim=1)
