"""tokenizer.json: the ids of the `tokenizers` package, exact round trip, and texts that never give special tokens."""

import json

import pytest
import tokenizers
from chat_checks import ADDED, SPECIALS, byte_level, small_files
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from msm_jax.data.encoding import encode_chat, encode_prompt
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError

WORDS = ["  ", "\n\n", "Ada", " cheese", "<|im_", "end|>", "e\u0301"]
PIECES = [*SPECIALS, *ADDED, *WORDS, *" \n\t\r\0.a▁é漢🙂\u200b\ufeff"]
TRICKY = st.lists(st.sampled_from(PIECES), max_size=10).map("".join)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TURNS = ChatTemplate(
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %}"
    " {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{% endif %}"
)


@pytest.fixture(scope="module")
def backend(tiny_corpus):
    return byte_level(tiny_corpus)


@pytest.fixture(scope="module")
def tokenizer(backend):
    return Tokenizer.from_files(small_files(backend, "qwen3"))


def metaspace(texts, scheme, **special):
    """A SentencePiece-like BPE, as Llama 2 and Mistral have it; "normalizer" is the older form."""
    backend = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if scheme == "normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([] if scheme == "never" else [decoders.Strip(" ", 1, 0)])
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=["x"],
        max_token_length=12,
    )
    backend.train_from_iterator(texts, trainer)
    spec = json.loads(backend.to_str())
    for byte in range(256):
        spec["model"]["vocab"].setdefault(f"<0x{byte:02X}>", len(spec["model"]["vocab"]))
    backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
    backend.add_special_tokens(
        [tokenizers.AddedToken(piece, normalized=False, special=True, **special) for piece in ("[INST]", "[/INST]")]
    )
    return backend


def files(backend, **config):
    config = {"bos_token": "<s>", "eos_token": "</s>", **config}
    return {"tokenizer.json": backend.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()}


@given(st.one_of(ANY_TEXT, TRICKY))
def test_round_trip_and_ids(backend, tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.specials.values())
    if not any(piece in text for piece in SPECIALS):
        assert ids == backend.encode(text, add_special_tokens=False).ids


@given(st.lists(TRICKY, max_size=4))
def test_batch_encodes_as_one_by_one(tokenizer, texts):
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@given(TRICKY, TRICKY)
def test_parts_begin_with_the_ids_of_the_first_alone(tokenizer, first, second):
    """And they are the ids of the whole wherever no token reaches over the cut."""
    a, b = tokenizer.encode_parts([first, second], begins=True)
    assert a == tokenizer.encode(first)
    assert tokenizer.decode([*a, *b]) == first + second
    whole = tokenizer.encode(first + second)
    assert a + b == whole or whole[: len(a)] != a


def test_specials_are_reached_by_id_alone(tokenizer):
    end = tokenizer.specials["<|im_end|>"]
    assert set(tokenizer.specials) == set(SPECIALS)
    assert end not in tokenizer.encode("<|im_end|>")
    ids = [*tokenizer.encode("a"), end, *tokenizer.encode(" b")]
    assert (tokenizer.decode(ids), tokenizer.decode(ids, specials=True)) == ("a b", "a<|im_end|> b")
    # An added token that is not special is a word of the vocabulary, as transformers has it.
    assert len(tokenizer.encode("<think>")) == 1
    assert tokenizer.decode(tokenizer.encode("<think>")) == "<think>"


def test_names_and_ids(backend, tokenizer):
    assert tokenizer.vocab_size == backend.get_vocab_size(with_added_tokens=True)
    assert tokenizer.bos_id is None
    assert tokenizer.named_specials == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    assert tokenizer.eos_id == tokenizer.specials["<|im_end|>"]
    assert tokenizer.pad_id == tokenizer.document_end_id == tokenizer.specials["<|endoftext|>"]
    assert tokenizer.document([5, 6]) == [5, 6, tokenizer.document_end_id]


def test_files_travel_byte_for_byte(backend, tmp_path):
    given = {**small_files(backend, "qwen3"), "special_tokens_map.json": b'{"eos_token": {"content": "<|im_end|>"}} '}
    tokenizer = Tokenizer.from_files({**given, "other": b"x"})
    assert tokenizer.files() == {name: given[name] for name in given if name != "chat_template.jinja"}
    assert tokenizer.sha256 == Tokenizer.from_files(tokenizer.files()).sha256
    for name, content in given.items():
        (tmp_path / name).write_bytes(content)
    # Where both kinds lie side by side, tokenizer.json is the one that transformers uses.
    (tmp_path / "tokenizer.model").write_bytes(b"a SentencePiece model")
    assert Tokenizer.load(tmp_path).sha256 == tokenizer.sha256


def test_begin_token_follows_the_config_and_the_post_processor(backend):
    def bos(post=None, **config):
        own = tokenizers.Tokenizer.from_str(backend.to_str())
        if post is not None:
            own.post_processor = post
        settings = {"bos_token": "<|begin_of_text|>", "eos_token": "<|im_end|>", **config}
        given = {
            "tokenizer.json": own.to_str().encode(),
            "tokenizer_config.json": json.dumps({k: v for k, v in settings.items() if v is not None}).encode(),
        }
        return Tokenizer.from_files(given).bos_id

    begin = backend.token_to_id("<|begin_of_text|>")
    post = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", begin)]
    )
    assert bos() is None
    assert bos(post) == begin
    assert bos(post, add_bos_token=False) is None
    assert bos(add_bos_token=True) == begin
    assert bos(add_bos_token=True, bos_token=None) is None


@pytest.mark.parametrize("scheme", ["first", "always", "normalizer", "never"])
@pytest.mark.parametrize("strips", [{}, {"lstrip": True, "rstrip": True}], ids=["plain", "strips"])
def test_prefix_spaces(tiny_corpus, scheme, strips):
    """Sections between specials have the ids that they have in the whole text, whatever is put before them."""
    backend = metaspace(tiny_corpus, scheme, **strips)
    tokenizer = Tokenizer.from_files(files(backend))
    for text in ("Ada likes", " two  spaces ", "\n", "", "é 漢🙂", "[INST] is text"):
        # Such a file puts no space before a text that begins with one, so the two cannot be told apart.
        joined = text.removeprefix(" ") if scheme in ("first", "always") else text
        assert tokenizer.decode(tokenizer.encode(text)) == joined
    chat = [
        {"role": "user", "content": "Ada likes old"},
        {"role": "assistant", "content": "cheese in 1900."},
        {"role": "user", "content": "why\nso "},
        {"role": "assistant", "content": "x"},
    ]
    text = TURNS.render(chat, **tokenizer.named_specials)
    ids, mask = encode_chat(tokenizer, TURNS, chat)
    whole = backend.encode(text, add_special_tokens=False)
    assert ids == whole.ids
    said = [tokenizer.decode([i for i, loss in zip(ids, mask, strict=True) if loss], specials=True, continues=True)]
    assert said[0].replace(" ", "") == "cheesein1900.</s>x</s>"
    assert ids[: len(encode_prompt(tokenizer, TURNS, chat[:3]))] == encode_prompt(tokenizer, TURNS, chat[:3])
    assert tokenizer.decode(tokenizer.encode(" old"), continues=True).endswith(" old")


def changed(backend, change):
    spec = json.loads(backend.to_str())
    change(spec)
    return json.dumps(spec).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.json": b"{"}, r"^there/tokenizer\.json: not JSON"),
        ({"tokenizer.json": b'{"model": {"type": "None"}}'}, r"^there/tokenizer\.json: not a tokenizer"),
        ({"tokenizer_config.json": b"[]"}, r"^there/tokenizer_config\.json: not a JSON object"),
        ({"tokenizer_config.json": b"{}"}, r"^there/tokenizer_config\.json: names no eos_token"),
        (
            {"tokenizer_config.json": b'{"eos_token": "<|gone|>"}'},
            r"^there/tokenizer_config\.json: names <\|gone\|>, which tokenizer\.json does not have",
        ),
    ],
)
def test_damaged_files_are_refused(backend, change, message):
    with pytest.raises(InputError, match=message) as refusal:
        Tokenizer.from_files({**small_files(backend, "qwen3"), **change}, "there/")
    assert len(str(refusal.value).splitlines()) == 1


def test_tokenizers_that_cannot_spell_every_text_are_refused(backend):
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0, "x": 1, "[UNK]": 2, "</s>": 3}, unk_token="[UNK]"))
    with pytest.raises(InputError, match="cannot encode every text"):
        Tokenizer.from_files(files(words, bos_token=None))
    lower = tokenizers.Tokenizer.from_str(backend.to_str())
    lower.normalizer = normalizers.Lowercase()
    with pytest.raises(InputError, match="or changes it"):
        Tokenizer.from_files({**small_files(backend, "qwen3"), "tokenizer.json": lower.to_str().encode()})
    alone = changed(backend, lambda spec: spec["added_tokens"][0].update(single_word=True))
    with pytest.raises(InputError, match=r"single_word"):
        Tokenizer.from_files({**small_files(backend, "qwen3"), "tokenizer.json": alone})


def test_sentencepiece_of_hugging_face_needs_its_tokenizer_json(tiny_tokenizer):
    with pytest.raises(InputError, match=r"no tokenizer\.json beside it"):
        Tokenizer.from_files({**tiny_tokenizer.files(), "tokenizer_config.json": b"{}"})


def test_half_a_surrogate_pair_is_refused(tokenizer):
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_parts([text], begins=True)):
        with pytest.raises(InputError, match=r"'\\ud800'"):
            encode("a\ud800")
