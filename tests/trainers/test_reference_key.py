import copy
import dataclasses
import hashlib
import json
import os
import random
import subprocess
import sys
from array import array
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, CTRLTokenizer, PreTrainedTokenizerFast

from lpo.errors import ConfigError
from lpo.packing import Group, Row, pack
from lpo.trainers import StepDPOConfig, policy, reference_identity
from lpo.trainers.reference_identity import (
    adapter_digest,
    reference_key,
    template_fingerprint,
    tokenizer_fingerprint,
    weights_digest,
)
from lpo.trainers.reference_key import CODE_VERSION, ReferenceKey, unit_digest

TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
FIELDS = [field.name for field in dataclasses.fields(ReferenceKey)]


@pytest.fixture(scope="module")
def base(tiny_tokenizer):
    """A model of which the tests change one thing at a time, and back."""
    from tiny_models import make_model

    return make_model("qwen2")


def lora(model, **options):
    torch.manual_seed(options.pop("seed", 0))
    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **options})
    return get_peft_model(copy.deepcopy(model), config)


def key_of(model, tokenizer, **options):
    given = {"computation": "tree, segments, chunked", "template": TEMPLATE, **options}
    return reference_key(model, tokenizer, **given)


def by_one_ulp(tensor, index):
    """Change one number of a tensor in its last bit."""
    bits = {4: torch.int32, 2: torch.int16, 1: torch.uint8}[tensor.element_size()]
    flat = tensor.detach().view(-1).view(bits)
    flat[index] ^= 1


# ---- the key ----

keys = st.builds(ReferenceKey, **{name: st.text(max_size=6) for name in FIELDS})


@given(keys, st.sampled_from(FIELDS), st.text(max_size=6))
def test_every_field_changes_the_digest(key, field, value):
    other = dataclasses.replace(key, **{field: value})
    same = getattr(key, field) == value
    assert (other.digest() == key.digest()) == same
    assert key.differences(dataclasses.asdict(other)) == ([] if same else [field])


@given(keys, keys)
def test_different_keys_have_different_digests(one, other):
    assert (one == other) == (one.digest() == other.digest())


@given(st.text(min_size=2, max_size=6), st.integers(1, 5))
def test_text_moved_from_a_field_to_the_next_changes_the_digest(text, at):
    key = ReferenceKey(text, *[""] * (len(FIELDS) - 1))
    moved = dataclasses.replace(key, weights=text[:at], architecture=text[at:])
    assert (key.digest() == moved.digest()) == (key == moved)


# ---- what must change it ----


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_one_weight_changed_in_its_last_bit_changes_the_key(base, data):
    before = weights_digest(base)
    name, weight = data.draw(st.sampled_from(sorted(base.named_parameters())), "weight")
    index = data.draw(st.integers(0, weight.numel() - 1), f"index in {name}")
    by_one_ulp(weight, index)
    try:
        assert weights_digest(base) != before
    finally:
        by_one_ulp(weight, index)
    assert weights_digest(base) == before


@pytest.mark.parametrize("change", [
    {"rms_norm_eps": 1e-5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
    {"num_attention_heads": 2}, {"hidden_act": "gelu"}, {"sliding_window": 8, "use_sliding_window": True},
], ids=lambda change: next(iter(change)))
def test_settings_beside_the_weights_change_the_key(base, tiny_tokenizer, change):
    before = key_of(base, tiny_tokenizer)
    other = copy.deepcopy(base)
    other.config.update(change)
    assert before.differences(dataclasses.asdict(key_of(other, tiny_tokenizer))) == ["architecture"]


def test_a_persistent_buffer_changes_the_key(base):
    models = [copy.deepcopy(base) for _ in range(2)]
    for value, model in enumerate(models):
        model.model.layers[0].register_buffer("correction_bias", torch.tensor([float(value)]))
    assert len({weights_digest(model) for model in (*models, base)}) == 3


@pytest.mark.parametrize(("options", "field"), [
    ({"template": TEMPLATE + " "}, "template"),
    ({"template": None}, "template"),
    ({"computation": "rows, sdpa, chunked"}, "computation"),
    ({"computation": "tree, flex, chunked"}, "computation"),
    ({"autocast": torch.bfloat16}, "dtype"),
], ids=str)
def test_what_the_caller_says_changes_the_key(base, tiny_tokenizer, options, field):
    before = key_of(base, tiny_tokenizer)
    assert before.differences(dataclasses.asdict(key_of(base, tiny_tokenizer, **options))) == [field]


def test_number_types_change_the_key_even_where_no_weight_changes(base, tiny_tokenizer):
    rounded = copy.deepcopy(base).to(torch.bfloat16)
    widened = copy.deepcopy(rounded).float()
    assert key_of(rounded, tiny_tokenizer).dtype == "weights bfloat16"
    assert key_of(widened, tiny_tokenizer).dtype == "weights float32"
    assert len({weights_digest(model) for model in (rounded, widened, base)}) == 3
    assert adapter_digest(base) == ""


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="an older torch")
def test_rounded_float32_products_change_the_key_however_they_were_asked_for(base, tiny_tokenizer):
    exact = key_of(base, tiny_tokenizer)
    torch.backends.fp32_precision = "tf32"  # what `TrainingArguments(tf32=True)` does
    try:
        rounded = key_of(base, tiny_tokenizer)
    finally:
        torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("high")
    try:
        assert key_of(base, tiny_tokenizer) == rounded
    finally:
        torch.set_float32_matmul_precision("highest")
    assert rounded.dtype == "weights float32, float32 products in tf32"
    assert key_of(base, tiny_tokenizer) == exact


def test_the_code_version_changes_the_key(base, tiny_tokenizer, monkeypatch):
    before = key_of(base, tiny_tokenizer)
    monkeypatch.setattr(reference_identity, "CODE_VERSION", CODE_VERSION + 1)
    newer = key_of(base, tiny_tokenizer)
    monkeypatch.undo()
    monkeypatch.setattr(reference_identity, "__version__", "99.0")
    assert len({before.digest(), newer.digest(), key_of(base, tiny_tokenizer).digest()}) == 3


@pytest.mark.parametrize("change", [
    "weight", "alpha", "scale", "rslora", "rank", "second adapter", "active adapter", "switched off"])
def test_everything_about_an_active_adapter_changes_the_key(base, tiny_tokenizer, change):
    before = key_of(lora(base), tiny_tokenizer)
    settings = {"alpha": {"lora_alpha": 9}, "rslora": {"use_rslora": True}, "rank": {"r": 5}}
    model = lora(base, **settings.get(change, {}))
    if change == "weight":
        by_one_ulp(model.base_model.model.model.layers[1].self_attn.v_proj.lora_B["default"].weight, 3)
    elif change == "scale":
        model.base_model.model.model.layers[0].self_attn.q_proj.scale_layer(2.0)
    elif change in ("second adapter", "active adapter"):
        model.add_adapter("other", LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
        if change == "active adapter":
            before = key_of(model, tiny_tokenizer)
            model.set_adapter("other")
    elif change == "switched off":
        model.base_model.disable_adapter_layers()
    assert before.differences(dataclasses.asdict(key_of(model, tiny_tokenizer))) == ["adapter"]


def test_scales_of_4_bit_weights_change_the_key(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    digests, codes = [], []
    for factor in (1.0, 2.0):  # twice the weights: the same 4-bit codes with twice the scales
        model = copy.deepcopy(base)
        model.model.layers[0].mlp.up_proj.weight.data *= factor
        model.save_pretrained(tmp_path / str(factor))
        quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / str(factor), quantization_config=quantised)
        codes.append(loaded.model.layers[0].mlp.up_proj.weight.data.clone())
        digests.append(weights_digest(loaded))
    assert torch.equal(*codes)
    assert digests[0] != digests[1]


def test_weights_that_are_not_here_cannot_be_identified(tiny_tokenizer, base):
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(base.config)
    with pytest.raises(ConfigError, match="sharded or offloaded"):
        key_of(empty, tiny_tokenizer)


# ---- what must not change it ----


ADAPTERS = [
    {"r": 2}, {"r": 8, "use_dora": True, "target_modules": "all-linear"}, {"modules_to_save": ["embed_tokens", "norm"]},
    {"trainable_token_indices": [3, 4]}, {"target_modules": ["embed_tokens"]},
    {"target_modules": [], "target_parameters": ["q_proj.weight"]},
]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_the_adapter_that_is_trained_does_not_change_the_key_but_every_weight_under_it_does(
    tiny_model, tiny_tokenizer, adapter
):
    base = tiny_model("llama")
    expected = key_of(base, tiny_tokenizer)
    model = lora(base, **adapter)
    assert key_of(model, tiny_tokenizer, adapter_off=True) == expected
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 1.0
    assert key_of(model, tiny_tokenizer, adapter_off=True) == expected, "as after a training"
    assert key_of(model, tiny_tokenizer) != expected
    for weight in base.parameters():
        by_one_ulp(weight, 5)
        assert key_of(lora(base, **adapter), tiny_tokenizer, adapter_off=True).weights != expected.weights
        by_one_ulp(weight, 5)


def test_training_settings_do_not_change_the_key(base, tiny_tokenizer, tmp_path):
    expected = key_of(base, tiny_tokenizer)
    for number, arguments in enumerate((
        {"learning_rate": 1e-6, "seed": 1}, {"seed": 2, "per_device_train_batch_size": 4},
        {"gradient_checkpointing": True, "max_steps": 7}, {"disable_dropout": False},
    )):
        args = StepDPOConfig(output_dir=str(tmp_path / str(number)), report_to=[], **arguments)
        start = copy.deepcopy(base)
        start.config.use_cache = False
        model = policy.wrap_policy(start, args, LoraConfig(target_modules=["q_proj"]))
        assert key_of(model, tiny_tokenizer, adapter_off=True) == expected


def test_an_adapter_in_another_type_than_the_model_changes_nothing_while_it_is_off(base, tiny_tokenizer):
    rounded = copy.deepcopy(base).to(torch.bfloat16)
    model = lora(rounded)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16, torch.float32}
    assert key_of(model, tiny_tokenizer, adapter_off=True) == key_of(rounded, tiny_tokenizer)


def test_the_folder_a_model_and_its_adapter_come_from_does_not_change_the_key(base, tiny_tokenizer, tmp_path):
    keys = set()
    lora(base).save_pretrained(tmp_path / "adapter")
    for folder in (tmp_path / "one", tmp_path / "another"):
        base.save_pretrained(folder / "model")
        lora(base).save_pretrained(folder / "adapter")
        tiny_tokenizer.save_pretrained(folder / "model")
        loaded = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="float32")
        adapted = PeftModel.from_pretrained(loaded, str(folder / "adapter"))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
        keys |= {key_of(adapted, tokenizer)}
    assert len(keys) == 1
    assert key_of(base, tiny_tokenizer) == dataclasses.replace(*keys, adapter="")


def test_another_process_finds_the_same_key(base, tiny_tokenizer):
    code = ("import sys; sys.path[:0] = sys.argv[1:]\n"
            "from tiny_models import make_model, make_tokenizer\n"
            "from test_reference_key import key_of, lora\n"
            "print(key_of(lora(make_model('qwen2')), make_tokenizer()).digest())\n")
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    result = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True,
                            env={**os.environ, "PYTHONHASHSEED": "4242"})
    assert result.stdout.split()[-1] == key_of(lora(base), tiny_tokenizer).digest()


# ---- tokenizers and templates ----


def test_a_tokenizer_changes_with_its_vocabulary_and_not_with_its_use(tiny_tokenizer):
    from tiny_models import make_tokenizer

    before = tokenizer_fingerprint(tiny_tokenizer)
    used = make_tokenizer()
    used(["a", "a longer text"], padding=True, truncation=True, max_length=2)
    used.name_or_path = "/somewhere/else"
    assert tokenizer_fingerprint(used) == before
    changes = {
        "added": lambda one: one.add_tokens(["<new>"]),
        "special": lambda one: one.add_special_tokens({"eos_token": "<|im_end|>"}),
        "flags": lambda one: one.add_tokens([AddedToken("<|im_end|>", lstrip=True, special=True)], special_tokens=True),
        "post": lambda one: setattr(one.backend_tokenizer, "post_processor", None),
    }
    found = {before, tokenizer_fingerprint(make_tokenizer(vocab_size=470))}
    for change in changes.values():
        tokenizer = make_tokenizer()
        change(tokenizer)
        found.add(tokenizer_fingerprint(tokenizer))
    assert len(found) == 2 + len(changes)


VOCABULARY = ("<unk>", "l", "o", "w", "lo", "low</w>", "w</w>")


def without_fast(folder, merges=("l o", "lo w</w>"), vocab=VOCABULARY, **options):
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocab)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CTRLTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), **options)


def test_a_tokenizer_written_in_python_is_known_by_vocabulary_and_merges(tmp_path):
    first = without_fast(tmp_path / "a")
    assert not first.is_fast
    assert tokenizer_fingerprint(first) == tokenizer_fingerprint(without_fast(tmp_path / "b"))
    others = [
        without_fast(tmp_path / "c", merges=("lo w</w>", "l o")),
        without_fast(tmp_path / "d", merges=("l o",)),
        without_fast(tmp_path / "e", vocab=("<unk>", "o", "l", "w", "lo", "low</w>", "w</w>")),
        without_fast(tmp_path / "f", eos_token="w"),
        without_fast(tmp_path / "g"),
    ]
    others[-1].add_tokens(["<new>"])
    assert len({tokenizer_fingerprint(one) for one in [first, *others]}) == 6


def test_a_template_is_its_source_wherever_it_comes_from(tiny_tokenizer):
    own = copy.deepcopy(tiny_tokenizer)
    own.chat_template = TEMPLATE
    assert template_fingerprint(tiny_tokenizer) == ""
    assert template_fingerprint(own) == template_fingerprint(tiny_tokenizer, TEMPLATE) != ""
    assert template_fingerprint(own, TEMPLATE + "\n") != template_fingerprint(own)


# ---- units ----

row_lists = st.lists(
    st.lists(st.integers(0, 70000), min_size=2, max_size=8).flatmap(
        lambda ids: st.tuples(st.just(tuple(ids)), st.integers(1, len(ids) - 1)).flatmap(
            lambda row: st.tuples(st.just(row[0]), st.just(row[1]), st.integers(row[1] + 1, len(row[0]))))),
    min_size=1, max_size=5)


@given(row_lists, row_lists)
def test_units_are_equal_exactly_where_their_rows_are(rows, others):
    assert (unit_digest(rows, ordered=True) == unit_digest(others, ordered=True)) == (rows == others)
    assert (unit_digest(rows, ordered=False) == unit_digest(others, ordered=False)) == (set(rows) == set(others))
    assert unit_digest(rows, ordered=True) != unit_digest(rows, ordered=False)


@given(row_lists, st.data())
def test_one_token_or_one_bound_changes_a_unit(rows, data):
    number = data.draw(st.integers(0, len(rows) - 1))
    ids, start, stop = rows[number]
    place = data.draw(st.integers(0, len(ids) - 1))
    changes = [
        ((*ids[:place], ids[place] + 1, *ids[place + 1:]), start, stop), (ids, start + 1, stop), (ids, start, stop + 1),
        ((*ids, 0), start, stop), (ids[:place] + ids[place + 1:], start, stop),
    ]
    for changed in changes:
        others = [*rows[:number], changed, *rows[number + 1:]]
        assert unit_digest(others, ordered=True) != unit_digest(rows, ordered=True)
        assert (unit_digest(others, ordered=False) == unit_digest(rows, ordered=False)) == (set(others) == set(rows))


@given(row_lists, st.randoms(use_true_random=False))
def test_a_trees_unit_depends_on_the_set_of_its_rows_as_its_layout_does(rows, shuffler):
    shuffled = [*rows, shuffler.choice(rows)]
    shuffler.shuffle(shuffled)
    assert unit_digest(shuffled, ordered=False) == unit_digest(rows, ordered=False)
    one, other = (pack([Group(tuple(Row(*row) for row in some))]) for some in (rows, shuffled))
    for name in ("input_ids_T", "position_ids_T", "hidden_index_N", "target_id_N"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_the_kind_of_sequence_does_not_change_a_unit():
    ids = [5, 70000, 7, 8]
    kinds = (ids, tuple(ids), array("i", ids), np.array(ids, dtype=np.int32), torch.tensor(ids))
    assert len({unit_digest([(kind, 1, 4)], ordered=True) for kind in kinds}) == 1


def test_the_order_of_scored_tokens_in_a_tree_belongs_to_the_code_version():
    """Stored arrays follow this order. If this fails, it has changed: raise CODE_VERSION, then mend the test."""
    rng = random.Random(0)
    rows: list[Row] = []
    for _ in range(40):
        trunk = list(rng.choice(rows).ids[: rng.randint(0, 12)]) if rows else []
        ids = trunk + [rng.randint(0, 3) for _ in range(rng.randint(2, 9))]
        start = rng.randint(1, len(ids) - 1)
        rows.append(Row(ids, start, rng.randint(start + 1, len(ids))))
    tree = pack([Group(tuple(rows))])
    order = torch.stack([tree.hidden_index_N, tree.target_id_N]).numpy().astype("<i8").tobytes()
    assert (CODE_VERSION, hashlib.sha256(order).hexdigest()[:16]) == (1, "6f671f33ce9ff274")
