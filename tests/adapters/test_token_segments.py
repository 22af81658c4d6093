"""Prompts made of segments are those made whole: for every kind of tokenizer, and texts of twelve languages.

The tokenizers are trained here with the `tokenizers` library, also those of the sentencepiece type: a served
checkpoint's tokenizer.json is always run by that library, whatever made it.
"""

import gzip
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    SentencePieceUnigramTokenizer,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from service.adapters.token_segments import SegmentEncoder, is_apart
from service.adapters.tokenizer import PromptTokenizer, open_tokenizer
from service.core.prompts import PromptSet
from service.types import Passage
from tests.fakes import rankrag_prompts

ROOT = Path(__file__).parents[2]
NO_LIMIT = 1_000_000

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SENTENCES = {
    "ar": "جبل بلانك هو أعلى قمة في جبال الألب، ويبلغ ارتفاعه ٤٨٠٦ أمتار.",
    "de": "Der höchste Berg der Alpen heißt Mont Blanc; größer ist dort keiner.",
    "el": "Το Λευκό Όρος είναι η ψηλότερη κορυφή των Άλπεων, στα 4.806 μέτρα.",
    "en": "It's the highest of the Alps: they'd climbed 4,806 metres by 1786.",
    "es": "¿Cuál es la montaña más alta? El pico está a 4806 m, según dijo él.",
    "hi": "मोंट ब्लांक आल्प्स की सबसे ऊँची चोटी है, जिसकी ऊँचाई ४८०६ मीटर है।",
    "ro": "Muntele are înălțimea de 4.806 metri și este cel mai înalt din Alpi.",
    "ru": "Монблан — самая высокая гора Альп, её высота 4806 метров.",
    "th": "มงบล็องเป็นภูเขาที่สูงที่สุดในเทือกเขาแอลป์ สูง ๔๘๐๖ เมตร",
    "tr": "Alplerin en yüksek dağı İtalya sınırındadır; ışığı uzaktan görülür.",
    "vi": "Đỉnh núi cao nhất dãy Anpơ nằm ở biên giới Pháp và Ý, cao 4.806 mét.",
    "zh": "勃朗峰是阿尔卑斯山的最高峰，海拔4806米，位于法国和意大利边境。",
}
ODD = [
    "", " ", "'s", "'", "9", "2024", "१२३", "\n", "a\n\n", "\r\n", "\t.", "...\n\n", "\u00a0", "x\u00a0\u2003",
    "\u200b", "\u200d", "\ufeff", "e\u0301", "\u0301\u0323a", "\u1100\u1161\u11a8", "ﬁ½Å", "İI ıi ΣΑΣ",
    "👩\u200d👩\u200d👧\u200d👦", "🏔\ufe0f", "🇫🇷🇮", "\u202eabc\u202c", "שלום (abc) עולם", "<0x0A>", "▁", "Ċ", "ĊĊUser",
    "User:", "\x00\x01", "\x85\u2028\u2029", "𝕏𐍈", "{question}", "\\n\\nUser: ", "/[]\r", "«", "。", "ก็",
]  # fmt: skip
TEXTS = st.lists(
    st.one_of(
        st.sampled_from([*SENTENCES.values(), *ODD]), st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    ),
    max_size=4,
).map("".join)

BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(regex: str, behavior: str = "isolated") -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), behavior), BYTE_LEVEL])


def lines() -> list[str]:
    return [*SENTENCES.values(), *rankrag_prompts().score_prompt("Who?", "It is so.").text.split("\n")] * 3


def whole_prompts() -> list[str]:
    prompts = rankrag_prompts()
    return [prompts.score_prompt(text, text).text for text in SENTENCES.values()]


def byte_level_bpe(
    pre_tokenizer: Any, *, normalizer: Any = None, begin: str = "<|begin_of_text|>", end: str = "", **model: Any
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|im_start|>"],
    )  # fmt: skip
    tokenizer.train_from_iterator(whole_prompts(), trainer)
    finish(tokenizer, begin, end, processors.ByteLevel(trim_offsets=True))
    return tokenizer


def sentencepiece_bpe(texts: list[str], *, normalizer: Any = None, pre_tokenizer: Any = None) -> Tokenizer:
    """As Llama 2's: no words, spaces as `▁`, bytes for what is unknown."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special + bytes_, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    finish(tokenizer, "<s>", "")
    return tokenizer


def unigram(*, is_normalizing: bool = True) -> Tokenizer:
    wrapped = SentencePieceUnigramTokenizer()
    special = ["<unk>", "<s>", "</s>"]
    tokenizer: Tokenizer = wrapped._tokenizer
    if not is_normalizing:
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(whole_prompts(), trainer)
    finish(tokenizer, "<s>", "</s>")
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=1000, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(lines(), trainer)
    finish(tokenizer, "[CLS]", "[SEP]")
    return tokenizer


def finish(tokenizer: Tokenizer, begin: str, end: str, *first: Any) -> None:
    names = [name for name in (begin, end) if name]
    template = processors.TemplateProcessing(
        single=f"{begin} $A {end}".strip(), special_tokens=[(name, tokenizer.token_to_id(name)) for name in names]
    )
    tokenizer.post_processor = processors.Sequence([*first, template])


def qwen() -> Tokenizer:
    tokenizer = byte_level_bpe(split(QWEN), normalizer=normalizers.NFC(), begin="")
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("Blanc", single_word=True)])
    return tokenizer


def with_greedy_token(content: str, *, is_special: bool) -> Tokenizer:
    """An added token takes the white space beside it into itself: the newlines of a seam, if a passage ends in it."""
    tokenizer = sentencepiece_bpe(lines(), normalizer=SPACES)
    token = AddedToken(content, lstrip=True, rstrip=True, normalized=False, special=is_special)
    tokenizer.add_special_tokens([token]) if is_special else tokenizer.add_tokens([token])
    return tokenizer


SPACES = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
DEEPSEEK_STEPS = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
        pre_tokenizers.Split(Regex("[一-龥぀-ゟ゠-ヿ]+"), "isolated"),
        pre_tokenizers.Split(Regex(DEEPSEEK), "isolated"),
        BYTE_LEVEL,
    ]
)
STARCODER_STEPS = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)

SEGMENTABLE: dict[str, Callable[[], Tokenizer]] = {
    "demo": lambda: open_tokenizer(ROOT / "models" / "demo"),
    "llama3": lambda: byte_level_bpe(split(LLAMA3), ignore_merges=True),
    "qwen": qwen,
    "llama2": lambda: sentencepiece_bpe(lines(), normalizer=SPACES),
    "gpt2": lambda: byte_level_bpe(GPT2),
    "gpt2_eos": lambda: byte_level_bpe(GPT2, end="<|end_of_text|>"),
    "deepseek": lambda: byte_level_bpe(DEEPSEEK_STEPS),
    "starcoder": lambda: byte_level_bpe(STARCODER_STEPS),
    "lowercase": lambda: byte_level_bpe(
        split(LLAMA3), normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    ),
    "mistral": lambda: sentencepiece_bpe(
        lines(), pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    ),
    "metaspace_always": lambda: sentencepiece_bpe(
        lines(), pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="always")
    ),
    "greedy_special": lambda: with_greedy_token("Blanc", is_special=True),
}
WHOLE: dict[str, Callable[[], Tokenizer]] = {
    "unigram": unigram,
    "unigram_plain": lambda: unigram(is_normalizing=False),
    "llama2_across": lambda: sentencepiece_bpe(whole_prompts(), normalizer=SPACES),
    "word_piece": word_piece,
    "greedy_token": lambda: with_greedy_token("metres.", is_special=False),
    "byte_level_across": lambda: byte_level_bpe(BYTE_LEVEL),
}
TOKENIZERS = SEGMENTABLE | WHOLE
MANY_PASSAGES = ("demo", "llama3", "llama2", "unigram")


@cache
def _saved(name: str) -> str:
    text: str = TOKENIZERS[name]().to_str()
    return text


@cache
def tokenizer_of(name: str) -> PromptTokenizer:
    return PromptTokenizer(Tokenizer.from_str(_saved(name)), rankrag_prompts())


def whole(tokenizer: PromptTokenizer, question: str, passages: Sequence[Passage]) -> list[tuple[int, ...]]:
    return [tokenizer.score_prompt(question, p.title, p.text, max_tokens=NO_LIMIT).ids for p in passages]


def assembled(tokenizer: PromptTokenizer, question: str, passages: Sequence[Passage]) -> list[tuple[int, ...]]:
    return [prompt.ids for prompt in tokenizer.score_prompts(question, passages, max_tokens=NO_LIMIT)]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_that_allow_segments_are_known(name: str) -> None:
    assert tokenizer_of(name).is_segmentable is (name in SEGMENTABLE)


# Real texts


def shared_data(name: str) -> Path:
    path = Path(os.environ.get("RANKRAG_DATA", ROOT.parent / "shared" / "data")) / name
    if not path.exists():
        pytest.skip(f"development data is not here: {path}")
    return path


@cache
def real_passages() -> list[Passage]:
    """2,000 passages of all sources; some longer than an index's."""
    with gzip.open(shared_data("corpus/passages.jsonl.gz"), "rt", encoding="utf-8") as rows:
        documents = map(json.loads, islice(rows, 0, None, 45))
        return [
            Passage(row["id"], " ".join(row["text"].split()[: 300 if number % 10 == 0 else 100]), row["title"])
            for number, row in enumerate(islice(documents, 2000))
        ]


@cache
def real_questions() -> dict[str, list[str]]:
    by_language: dict[str, list[str]] = {}
    with shared_data("load/questions_multilingual.jsonl").open(encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            by_language.setdefault(row["lang"], []).append(row["question"])
    with shared_data("load/questions.jsonl").open(encoding="utf-8") as rows:
        by_language["en"] = [json.loads(row)["question"] for row in islice(rows, 200)]
    return by_language


def foreign_passages() -> Iterator[Passage]:
    """100 of each language, made of three questions each, the title of a fourth."""
    for language, questions in real_questions().items():
        for start in range(0, 400, 4):
            four = [questions[(start + number) % len(questions)] for number in range(4)]
            yield Passage(f"{language}-{start}", " ".join(four[1:]), four[0] if start % 8 else "")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_real_passages_in_twelve_languages_assemble_to_what_the_whole_gives(name: str) -> None:
    assert len(real_questions()) == 12
    tokenizer = tokenizer_of(name)
    passages = [*foreign_passages(), *real_passages()]
    random.Random(7).shuffle(passages)
    passages = passages[: None if name in MANY_PASSAGES else 300]
    questions = cycle(question for some in zip(*real_questions().values(), strict=False) for question in some)
    for start in range(0, len(passages), 25):
        question, some = next(questions), passages[start : start + 25]
        assert assembled(tokenizer, question, some) == whole(tokenizer, question, some)
    num_assembled = sum(context is not None for context in tokenizer.context_ids(passages))
    if name in MANY_PASSAGES:
        assert len(passages) >= 3000
    if name in SEGMENTABLE:
        assert num_assembled > 0.99 * len(passages)  # it is no falling back that makes them equal
    else:
        assert num_assembled == 0


# Own texts


@pytest.mark.parametrize("name", TOKENIZERS)
def test_odd_texts_in_twelve_languages_assemble_to_what_the_whole_gives(name: str) -> None:
    tokenizer, rng = tokenizer_of(name), random.Random(11)
    pieces = [*SENTENCES.values(), *ODD, *ODD]
    for _ in range(12):
        question, *texts = ("".join(rng.choices(pieces, k=rng.randint(1, 4))) for _ in range(61))
        passages = [Passage("", text, title) for text, title in zip(texts[::2], texts[1::2], strict=True)]
        assert assembled(tokenizer, question, passages) == whole(tokenizer, question, passages)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=25)
@given(question=TEXTS, title=TEXTS, text=TEXTS)
def test_any_text_assembles_to_what_the_whole_gives(name: str, question: str, title: str, text: str) -> None:
    tokenizer, passages = tokenizer_of(name), [Passage("", text, title)]
    assert assembled(tokenizer, question, passages) == whole(tokenizer, question, passages)


def test_text_that_changes_a_guard_gets_no_ids() -> None:
    segments = SegmentEncoder(Tokenizer.from_str(_saved("greedy_token")), rankrag_prompts())
    first, second = segments.contexts(["Passage: 4,806 metres.\n\n", "Passage: 4,806 metres. High.\n\n"])
    assert (first, second is None) == (None, False)


# Control tokens


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    return {token.content: id_ for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_special_token_in_any_text_stays_characters(name: str) -> None:
    library, tokenizer = Tokenizer.from_str(_saved(name)), tokenizer_of(name)
    special = special_tokens(library)
    unknown = {"<unk>", "[UNK]"}  # what stands for unknown characters too
    frame = library.encode("x").special_tokens_mask
    num_before, num_after = frame.index(0), frame[::-1].index(0)
    for token in special:
        forms = [token, f"a{token}b", f"Is it {token} so?", token * 3, f"{token}\n\nUser: {token}"]
        passages = [Passage("", "plain", form) for form in forms] + [Passage("", form, "plain") for form in forms]
        for question in ["plain", *forms]:
            prompts = assembled(tokenizer, question, passages)
            assert prompts == whole(tokenizer, question, passages)
            for ids in prompts:
                inner = set(ids[num_before : len(ids) - num_after])
                assert not inner & {id_ for name, id_ in special.items() if name not in unknown}


# The proof


NOT_PROVABLE = {
    "looks behind": r"(?<=\n)\p{L}+|\p{L}+|[^\p{L}]",
    "looks far ahead": r"\s+(?=[A-Z])|\s|\S+",
    "anchored at a line's end": r"\S+$|\s|\S",
    "anchored at the end": r"\s+\z|\s|\S+",
    "word boundary": r"\b\w+|\s|[^\w\s]",
    "back reference": r"(\s)\1|\s|\S+",
    "any character": r".+|\s",
    "newline with the next word": r"\s?\p{L}+|\s|[^\s\p{L}]+",
    "newline with a letter, far apart": r"\n[.,]*[a-z]*U?|\s|\S+",
    "all but digits": r"\p{N}+|[^\p{N}]+",
    "newline in no match": r"\p{L}+",
    "newline pairs only": r"\n\n|\p{L}+",
    "nullable branch first": r"\p{L}*|\s",
    "flags for the rest": r"(?i)\s|\S+",
    "class in a class": r"[\s[a-z]]|\S",
    "atomic group": r"(?>\s+)|\S+",
    "quantifier of a quantifier": r"\s|\S+*",
}


@cache
def _apart_model() -> str:
    return _saved("llama3")


def with_pre_tokenizer(pre_tokenizer: Any) -> Tokenizer:
    """Its model has merges across the seams: only what pre-tokenises can keep them from happening."""
    tokenizer = Tokenizer.from_str(_saved("byte_level_across"))
    tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


@pytest.mark.parametrize("regex", NOT_PROVABLE.values(), ids=list(NOT_PROVABLE))
def test_split_whose_reach_is_not_plain_is_not_trusted(regex: str) -> None:
    assert is_apart(with_pre_tokenizer(split(LLAMA3)), "PU")
    assert not is_apart(with_pre_tokenizer(split(regex)), "PU")


@pytest.mark.parametrize("behavior", ["merged_with_previous", "merged_with_next", "contiguous"])
def test_split_that_merges_pieces_is_not_trusted(behavior: str) -> None:
    assert not is_apart(with_pre_tokenizer(split(LLAMA3, behavior)), "PU")


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Strip(), normalizers.StripAccents(), normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Replace("\n", " "), normalizers.Sequence([normalizers.NFC(), normalizers.Replace("nP", "m")]),
    ],
)  # fmt: skip
def test_normaliser_that_may_reach_across_is_not_trusted(normalizer: Any) -> None:
    tokenizer = Tokenizer.from_str(_apart_model())
    assert is_apart(tokenizer, "PU")
    tokenizer.normalizer = normalizer
    assert not is_apart(tokenizer, "PU")


@pytest.mark.parametrize(
    "token", [AddedToken("\n\nUser"), AddedToken("\n\n"), AddedToken("User", lstrip=True), AddedToken(".", rstrip=True)]
)
def test_added_token_at_the_seam_is_not_trusted(token: AddedToken) -> None:
    tokenizer = Tokenizer.from_str(_apart_model())
    tokenizer.add_tokens([token])
    assert not is_apart(tokenizer, "PU")
    prompts = PromptTokenizer(tokenizer, rankrag_prompts())
    passages = [Passage("", text) for text in SENTENCES.values()]
    assert assembled(prompts, "Who?", passages) == whole(prompts, "Who?", passages)


def test_model_that_merges_by_chance_is_not_trusted() -> None:
    document = json.loads(_apart_model())
    document["model"]["dropout"] = 0.1
    assert not is_apart(Tokenizer.from_str(json.dumps(document)), "PU")


BRANCHES = [
    r"\n", r"\s", r"\s+", r"\s+(?!\S)", r"\s*[\r\n]+", r" ?\p{L}+", r"\s?\p{L}+", r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"\p{L}*", r"\n\n", r"\p{N}{1,3}", r"[^\p{N}]+", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}]+\s*(?!\S)",
    r"\n?U", r"[\r\n]+(?i:p)", r"\S+", r"(?i:'s|\ss)", r"\S+\n(?!\S)", r"(?:\s\S)+", r"[^a-z]", r"\w+|\W",
]  # fmt: skip
BEHAVIORS = ["isolated", "removed", "contiguous", "merged_with_previous", "merged_with_next"]


@settings(max_examples=150)
@given(
    branches=st.lists(st.sampled_from(BRANCHES), min_size=1, max_size=6, unique=True),
    behavior=st.sampled_from(BEHAVIORS[:2]) | st.sampled_from(BEHAVIORS),
    passages=st.lists(TEXTS.map(lambda text: Passage("", text)), min_size=1, max_size=3),
    question=TEXTS,
)
def test_whatever_is_split_at_prompts_are_what_the_whole_gives(
    branches: list[str], behavior: str, passages: list[Passage], question: str
) -> None:
    prompts = PromptTokenizer(with_pre_tokenizer(split("|".join(branches), behavior)), rankrag_prompts())
    target(prompts.is_segmentable)  # more of those where there is something to go wrong
    assert assembled(prompts, question, passages) == whole(prompts, question, passages)


@pytest.mark.parametrize(
    "changes",
    [
        {"score_context": "{passage}\n\n"},
        {"score_context": "Passage: {passage} "},
        {"score_turn": "{question}? Say True or False:"},
        {"score_turn": " User: {question}"},
        {"system": "Be polite. "},
        {"system": ""},
    ],
)
def test_prompts_without_such_seams_are_tokenised_whole(changes: dict[str, str]) -> None:
    prompts = PromptSet(**{**_fields(rankrag_prompts()), **changes})
    tokenizer = PromptTokenizer(Tokenizer.from_str(_apart_model()), prompts)
    passages = [Passage("", text) for text in [*SENTENCES.values(), *ODD]]
    assert not tokenizer.is_segmentable
    assert assembled(tokenizer, "Who?", passages) == whole(tokenizer, "Who?", passages)


def _fields(prompts: PromptSet) -> dict[str, Any]:
    return {name: getattr(prompts, name) for name in PromptSet.__slots__}
