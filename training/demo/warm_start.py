"""The demo model: a causal language model that begins as the retrieval encoder that the demo installs anyway.

all-MiniLM-L6-v2 is a BERT: layers that normalise after each part. OPT has such layers too (`do_layer_norm_before` off),
so that every weight of the encoder has its place in a model that vLLM serves:

- the normalised sum of embeddings becomes a first layer whose attention and MLP add nothing yet;
- then come the six layers of the encoder, which now see only what is to their left;
- above them one layer that copies: all of its heads say which token they look at, by a linear map that is fitted, not
  trained. Where they should look is told by a loss of its own (`Pointing`).

The vocabulary is another (cased, numbers and punctuation apart, one that gives back the text it was given): a token
begins with what the encoder knows of its letters.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertModel, OPTConfig, OPTForCausalLM

from service.adapters.encoder import EncoderConfig, model_directory
from training.demo.packing import BIND, FOLLOW, LEAD
from training.demo.tokenizer import BOS, EOS, PAD, token_id

NUM_COPY_LAYERS = 1
BINDING_LAYER = -4
CASE_PART = 0.15  # how far a capital or a missing space moves an embedding, in parts of its length
NOISE_PART = 0.05  # so that no two tokens begin as the same vector
SECOND_HALF_PART = 0.1  # what tells a position from the one 512 before, of which it is a copy
COPY = 2.0  # how loudly the copying layer says what it looks at, in lengths of what it gets
FINAL_GAIN = 2.0  # scale of the logits: at it the fitted map says the token with the least loss
RIDGE = 1e-3
MAX_FIT_TOKENS = 200


def make_config(encoder: Any, tokenizer: Tokenizer, *, max_length: int) -> OPTConfig:
    ids = {token: token_id(tokenizer, token) for token in (PAD, BOS, EOS)}
    return OPTConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=encoder.hidden_size, word_embed_proj_dim=encoder.hidden_size,
        num_hidden_layers=1 + encoder.num_hidden_layers + NUM_COPY_LAYERS, ffn_dim=encoder.intermediate_size,
        num_attention_heads=encoder.num_attention_heads, max_position_embeddings=max_length,
        activation_function="gelu", do_layer_norm_before=False, dropout=0.0, attention_dropout=0.0, layerdrop=0.0,
        pad_token_id=ids[PAD], bos_token_id=ids[BOS], eos_token_id=ids[EOS], tie_word_embeddings=True,
    )  # fmt: skip


def make_model(tokenizer: Tokenizer, texts: Sequence[str], *, max_length: int, seed: int) -> OPTForCausalLM:
    """A fresh model in float32. `texts` are what the copying layer's map is fitted on; a few hundred do."""
    torch.manual_seed(seed)
    path = model_directory(EncoderConfig().model, None)
    encoder = BertModel.from_pretrained(path, add_pooling_layer=False)  # nosec B615
    model: OPTForCausalLM = OPTForCausalLM(make_config(encoder.config, tokenizer, max_length=max_length))
    model.eval()  # type: ignore[no-untyped-call]
    layers = model.model.decoder.layers
    with torch.no_grad():
        words = Tokenizer.from_file(str(path / "tokenizer.json"))
        words.no_padding()  # else each word comes with a hundred pads
        _embed(model, encoder.embeddings, tokenizer, words)
        _begin(layers[0], encoder.embeddings.LayerNorm)
        for layer, source in zip(layers[1:], encoder.encoder.layer, strict=False):
            _take_over(layer, source)
        _begin(layers[-1], None)
        _copy(model, tokenizer, texts)
    return model


def _embed(model: OPTForCausalLM, source: Any, tokenizer: Tokenizer, words: Tokenizer) -> None:
    """What all words have in common moves to the positions, and all get one length: they are the output layer, too."""
    decoder = model.model.decoder
    tokens = _token_embeddings(source.word_embeddings.weight, tokenizer, words)
    written = [tokenizer.decode([id_]) for id_ in range(len(tokens))]
    is_word = [text.startswith(" ") and text[1:].isalpha() for text in written]
    shared = tokens[is_word].mean(dim=0)
    tokens = tokens - shared
    size = tokens.norm(dim=1, keepdim=True)
    decoder.embed_tokens.weight.copy_(tokens / size * size.mean())
    known = source.position_embeddings.weight + source.token_type_embeddings.weight[0] + shared
    positions = decoder.embed_positions.weight[decoder.embed_positions.offset :]
    for start in range(0, len(positions), len(known)):
        part = positions[start : start + len(known)]
        part.copy_(known[: len(part)])
        if start:
            part += _of_length(torch.randn(known.shape[1]), SECOND_HALF_PART * known.norm(dim=1).mean())


def _token_embeddings(known: Tensor, tokenizer: Tokenizer, words: Tokenizer) -> Tensor:
    """(vocabulary, dim) float32: the mean of the encoder's pieces of each token, moved by how it is written."""
    size = known.norm(dim=1).mean()
    capital, upper, glued = (_of_length(torch.randn(known.shape[1]), CASE_PART * size) for _ in range(3))
    special = {PAD: "[PAD]", BOS: "[CLS]", EOS: "[SEP]"}
    rows = []
    for id_ in range(tokenizer.get_vocab_size()):
        name = str(tokenizer.id_to_token(id_))
        text = tokenizer.decode([id_])
        row = known[_pieces(special.get(name, ""), text, words)].mean(dim=0)
        row = row + _of_length(torch.randn(known.shape[1]), NOISE_PART * size)
        if (word := text.strip())[:1].isupper():
            row = row + (upper if len(word) > 1 and word.isupper() else capital)
        rows.append(row + glued if word.isalnum() and not text.startswith(" ") else row)
    return torch.stack(rows)


def _pieces(special: str, text: str, words: Tokenizer) -> list[int]:
    """The encoder's ids for a token of ours: the inside of a word where it is one, else its pieces."""
    if special:
        return [token_id(words, special)]
    word = text.strip().lower()
    inside = words.token_to_id(f"##{word}") if word.isalnum() and not text.startswith(" ") else None
    found = [inside] if inside is not None else list(words.encode(word, add_special_tokens=False).ids)
    return found or [token_id(words, "[SEP]")]  # white space


def _of_length(vector: Tensor, length: Tensor | float) -> Tensor:
    scaled: Tensor = vector * (length / vector.norm())
    return scaled


def _begin(layer: Any, norm: nn.LayerNorm | None) -> None:
    """A layer that adds nothing; its last normalisation is `norm` if given."""
    for part in (layer.self_attn.out_proj, layer.fc2):
        part.weight.zero_()
        part.bias.zero_()
    if norm is not None:
        layer.final_layer_norm.weight.copy_(norm.weight)
        layer.final_layer_norm.bias.copy_(norm.bias)


def _take_over(layer: Any, source: Any) -> None:
    pairs = (
        (layer.self_attn.q_proj, source.attention.self.query), (layer.self_attn.k_proj, source.attention.self.key),
        (layer.self_attn.v_proj, source.attention.self.value),
        (layer.self_attn.out_proj, source.attention.output.dense),
        (layer.self_attn_layer_norm, source.attention.output.LayerNorm),
        (layer.fc1, source.intermediate.dense), (layer.fc2, source.output.dense),
        (layer.final_layer_norm, source.output.LayerNorm),
    )  # fmt: skip
    for ours, theirs in pairs:
        ours.weight.copy_(theirs.weight)
        ours.bias.copy_(theirs.bias)


def _copy(model: OPTForCausalLM, tokenizer: Tokenizer, texts: Iterable[str]) -> None:
    """Each head of the last layer carries its slice of the states; the output puts them together as an embedding.

    The map from what the layer gets to the token's own embedding is a ridge regression over `texts`. Embeddings are
    centred, as what all tokens have in common says nothing.
    """
    states, ids = _states(model, tokenizer, texts)
    embeddings = model.model.decoder.embed_tokens.weight
    wanted = (embeddings - embeddings.mean(dim=0))[ids]
    normal = states.T @ states / len(states) + RIDGE * torch.eye(states.shape[1])
    fitted = torch.linalg.solve(normal, states.T @ wanted / len(states))
    fitted *= COPY * states[:, :-1].norm(dim=1).mean() / (states @ fitted).norm(dim=1).mean()
    layer = model.model.decoder.layers[-1]
    attention = layer.self_attn
    attention.v_proj.weight.copy_(torch.eye(len(fitted) - 1))
    attention.v_proj.bias.zero_()
    attention.out_proj.weight.copy_(fitted[:-1].T)
    attention.out_proj.bias.copy_(fitted[-1])
    layer.final_layer_norm.weight.fill_(FINAL_GAIN)


def _states(model: OPTForCausalLM, tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[Tensor, Tensor]:
    """(tokens, dim + 1) float32: what the copying layer gets for each token, and a constant 1; the tokens' ids."""
    states, ids = [], []
    for text in texts:
        encoded = torch.tensor([tokenizer.encode(text).ids[:MAX_FIT_TOKENS]])
        hidden = model.model(input_ids=encoded, output_hidden_states=True).hidden_states[-1 - NUM_COPY_LAYERS][0]
        states.append(torch.cat([hidden, torch.ones(len(hidden), 1)], dim=1))
        ids.append(encoded[0])
    return torch.cat(states), torch.cat(ids)


class Pointing:
    """Watches where the copying layer looks: all of its heads at the token to be said next, or at the first of all.

    And one head of a layer below, which is to look from an answer to the title of its passage, and from the end of a
    question to the name in it.
    """

    def __init__(self, model: OPTForCausalLM) -> None:
        self.layer: Any = model.model.decoder.layers[-1]
        self.copying, self.binding = self.layer.self_attn, model.model.decoder.layers[BINDING_LAYER].self_attn
        self.inputs: dict[Any, dict[str, Any]] = {}
        for attention in (self.copying, self.binding):
            attention.register_forward_pre_hook(
                lambda layer, _, kwargs: self.inputs.update({layer: kwargs}), with_kwargs=True
            )

    def losses(self, pointing: Tensor, roles: Tensor, spots: Tensor) -> tuple[dict[str, Tensor], float]:
        """How far they looked from where they should: the mean of -log(attention on the spots) by role.

        `pointing` (batch, pointers) int64 tokens, -1 for none; `roles` (batch, pointers) int64, LEAD, FOLLOW or BIND;
        `spots` (batch, pointers, length) bool. Returns `point`, `follow` and `bind`, and the mean attention that those
        that lead pay to their spots.
        """
        watched = {"point": (LEAD, self.copying), "follow": (FOLLOW, self.copying), "bind": (BIND, self.binding)}
        found = {
            name: self._missed(attention, (pointing >= 0) & (roles == role), pointing, spots)
            for name, (role, attention) in watched.items()
        }
        found["bind"] = found["bind"][:, :1]
        pointed = float((-found["point"].detach()).exp().mean())
        return {name: missed.mean() for name, missed in found.items() if missed.numel()}, pointed

    def said(self, row: Tensor, column: Tensor) -> Tensor:
        """(tokens, dim): what the copying layer would say of these tokens of the last forward pass, if it looked there.

        To be told apart by the output layer: an encoder of sentences forgets in its upper layers which words it read.
        """
        states = self.inputs[self.copying]["hidden_states"][row, column]
        values = self.copying.out_proj(self.copying.v_proj(states))
        found: Tensor = self.layer.final_layer_norm(self.layer.self_attn_layer_norm(values))
        return found

    def _missed(self, attention: Any, chosen: Tensor, pointing: Tensor, spots: Tensor) -> Tensor:
        """(pointers, heads): -log of the attention that each head pays to the spots."""
        seen, shape = self.inputs[attention], (attention.num_heads, attention.head_dim)
        states = seen["hidden_states"]
        keys = attention.k_proj(states).unflatten(-1, shape)
        missed = []
        for number in range(len(states)):  # one sequence at a time: each pointer has the keys of its own
            place = chosen[number].nonzero()[:, 0]
            token = pointing[number, place]
            queries = attention.q_proj(states[number, token]).unflatten(-1, shape)
            scores = torch.einsum("phd,lhd->phl", queries, keys[number]) * attention.scaling
            visible = seen["attention_mask"][number, 0, token][:, None]
            logs = scores.masked_fill(~visible, -torch.inf).log_softmax(dim=-1)
            missed.append(-logs.masked_fill(~spots[number, place][:, None], -torch.inf).logsumexp(dim=-1))
        return torch.cat(missed)
