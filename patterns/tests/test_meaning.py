"""A pattern means what Python's `re`, and so PEFT, takes it for, whichever engine matches it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import patterns
from patterns import confined, linear
from patterns.errors import InvalidPatternError, UntranslatableError
from patterns.rules import ANY_LAYER
from patterns.syntax import parse, translate

pytestmark = pytest.mark.filterwarnings("ignore:Possible (nested set|set difference):FutureWarning")

ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
NAMES = [
    *(f"model.layers.{layer}.{name}" for layer in (0, 1, 2, 10, 11, 31) for name in ATTENTION + MLP),
    *(f"model.layers.{layer}.mlp.experts.{e}.{n}" for layer in (0, 7) for e in (0, 3, 17) for n in ("w1", "gate_proj")),
    *(f"model.language_model.layers.{layer}.{name}" for layer in (0, 12) for name in ATTENTION),
    *(f"model.vision_tower.encoder.layers.{layer}.self_attn.{n}_proj" for layer in (0, 5) for n in "qkv"),
    *(f"transformer.h.{layer}.{name}" for layer in (0, 3) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc")),
    *(f"gpt_neox.layers.{layer}.attention.{n}" for layer in (0, 5) for n in ("query_key_value", "dense")),
    "model.visual.blocks.0.attn.qkv", "lm_head", "score", "layers.3.wq", "3.layers.q_proj", "model..layers.4..q_proj",
    "model.layers.x.q_proj", "model.layers.5", "q_proj",
]  # fmt: skip


def whole(pattern: str, names: Sequence[str]) -> list[bool]:
    return [re.fullmatch(pattern, name) is not None for name in names]


def endings(keys: Sequence[str], names: Sequence[str]) -> list[int]:
    compiled = [re.compile(rf"(.*\.)?({key})$") for key in keys]
    return [next((i for i, key in enumerate(compiled) if key.match(name)), -1) for name in names]


def layers(parts: Sequence[str], names: Sequence[str]) -> list[int | None]:
    compiled = [re.compile(rf"(?:^|.*?\.){part}\.(?P<idx>\d+)\.") for part in parts] or [re.compile(ANY_LAYER)]
    found: list[int | None] = []
    for name in names:
        match = next((match for pattern in compiled if (match := pattern.match(name))), None)
        number = match.groupdict().get("idx") if match else None
        found.append(None if number is None else int(number))
    return found


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("this pattern needs no child process")

    monkeypatch.setattr(confined, "first_matches", refused)


# The shapes that adapters use: words of module names, their alternatives, numbers, with dots escaped or not.
WORDS = st.sampled_from(
    "model layers self_attn mlp q_proj k_proj v_proj o_proj gate_proj up_proj down_proj h attn c_attn experts w1 "
    "language_model vision_tower query_key_value lm_head".split()
)
NUMBERS = st.sampled_from(
    [r"\d+", "[0-9]+", "[0-3]", r"(?:[0-9]|[1-2][0-9])", "(0|1|10)", r"\d{1,2}", "1[01]", "[^.]+"]
)
CHOICES = st.lists(WORDS, min_size=1, max_size=4).map(lambda words: "(?:" + "|".join(words) + ")")
GROUPS = st.lists(WORDS, min_size=1, max_size=4).map(lambda words: "(" + "|".join(words) + ")")
PARTS = (
    WORDS | NUMBERS | CHOICES | GROUPS | st.sampled_from([".*", ".*?", ".+", r"[^.]*", r"\w+", "(?:model)?", r"\S*"])
)
DOTS = st.sampled_from([r"\.", ".", r"\.?", "[.]"])
KEYS = st.builds(
    lambda parts, dots: parts[0] + "".join(dot + part for dot, part in zip(dots, parts[1:], strict=False)),
    st.lists(PARTS, min_size=1, max_size=4),
    st.lists(DOTS, min_size=4, max_size=4),
)
WHOLE = st.builds(
    lambda start, key, end: start + key + end,
    st.sampled_from(["", "^", ".*", r".*\.", r"^.*\.", r"model\.", ".*?", r"(?:.*\.)?"]),
    KEYS,
    st.sampled_from(["", "$", ".*", r"\Z", r"\..*", r"\.(?:q|k|v)_proj$"]),
)
usual = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@usual
@given(WHOLE)
@example("(?:.{1,16}){1,4}j")
@example(r".*\.layers\.(?:[0-9]|1[01])\.self_attn\.(q|v)_proj")
@example(r"^model(?:\.language_model)?\.layers\..*_proj$")
def test_target_modules(no_child: None, pattern: str) -> None:
    assert patterns.whole(pattern, NAMES) == whole(pattern, NAMES)


@usual
@given(st.lists(KEYS, max_size=5))
@example(["q_proj|v_proj", "layers.1", "layers.1.mlp.up_proj"])
@example(["self_attn", r".*\.0\..*", "lm_head"])
def test_keys_of_rank_and_alpha_patterns(no_child: None, keys: list[str]) -> None:
    assert patterns.endings(keys, NAMES) == endings(keys, NAMES)


@usual
@given(st.lists(KEYS, max_size=3))
@example(["layers"])
@example(["h", "layers"])
@example(["model|layers"])
@example([r"layers\.\d+\.mlp\.experts"])
def test_layers_patterns(no_child: None, parts: list[str]) -> None:
    assert patterns.layers(parts, NAMES) == layers(parts, NAMES)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 400])
def test_a_table_with_an_entry_for_each_module(no_child: None, count: int) -> None:
    keys = [f"model.layers.{number // 4}.{ATTENTION[number % 4]}" for number in range(count)]
    assert patterns.endings(keys, NAMES) == endings(keys, NAMES)
    assert patterns.endings(keys, keys) == list(range(count))


# Anything that the two engines might read in different ways, on names short enough for an engine that backtracks.
ATOMS = st.sampled_from(
    [*"ab01._-", ".", r"\.", r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\b", r"\B", r"\A", r"\Z", "^", "$", "[ab]"]
    + [
        "[^a]",
        "[a-b0]",
        "[^.]",
        r"[\w.]",
        r"[^\W]",
        r"[\s\S]",
        "[[:alpha:]]",
        "[]a]",
        "[a-]",
        r"\x61",
        r"\141",
        r"\012",
    ]
    + [
        r"\u0061",
        r"\N{LATIN SMALL LETTER A}",
        r"\C",
        r"\pN",
        r"\Qa.\E",
        r"\z",
        r"\x{61}",
        r"\a",
        r"\1",
        "é",
        "模",
        "{",
        "}",
    ]
    + [
        "a{,2}",
        "a{2,}",
        "a{",
        "a{1}",
        "(?#c)",
        "(?P<n>a)",
        "(?P=n)",
        "(?<n>a)",
        "(?i:A)",
        "(?s:.)",
        "(?-i:a)",
        "(?x: a )",
    ]
    + [
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?<!a)",
        "(?>a)",
        "a++",
        "a*+",
        "a?+",
        "(?(1)a|b)",
        "(?U)",
        "(?m)",
        "(?i)",
        "(?x)",
        "(?a)",
    ]
)
QUANTIFIERS = st.sampled_from(
    ["", "", "?", "*", "+", "??", "*?", "+?", "{2}", "{1,2}", "{,1}", "{0}", "{2,}?", "{0,3}"]
)
TREES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=3).map("".join)
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: "(" + "|".join(parts) + ")")
        | st.builds(lambda part, times: f"(?:{part}){times}", inner, QUANTIFIERS)
        | st.builds(lambda part, times: f"({part}){times}", inner, QUANTIFIERS)
    ),
    max_leaves=8,
)
SHORT = st.lists(st.text("ab01._- \t\x0b\x1c\n", max_size=7), min_size=1, max_size=8)
FLAGS = st.sampled_from(["", "", "", "(?x)", "(?s)", "(?i)", "(?m)", "(?a)"])


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(FLAGS, TREES, SHORT)
@example("", r"(?:|a)*", ["a"])
@example("", r"\s", ["\x1c", "\x0b"])
@example("", "a$", ["a\n", "a"])
def test_what_is_translated_means_the_same(flags: str, text: str, names: list[str]) -> None:
    pattern = flags + text
    try:
        regexp = linear.compiled(translate(parse(pattern)))
        encoded = linear.encode(names)
    except InvalidPatternError:
        with pytest.raises((re.error, ValueError, OverflowError)):
            re.compile(pattern)
        return
    except UntranslatableError:
        return
    compiled = re.compile(pattern)
    for name, code in zip(names, encoded, strict=True):
        assert bool(regexp.fullmatch(code)) == bool(compiled.fullmatch(name)), name
        assert bool(regexp.match(code)) == bool(compiled.match(name)), name


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(TREES, st.lists(st.text("ab01.", max_size=9), min_size=1, max_size=8))
@example("a|b", ["a.b.1.", "b.1."])
@example("", ["a..1.", ".1.0."])
def test_the_number_that_is_captured_is_the_same(part: str, names: list[str]) -> None:
    pattern = rf"(?:^|.*?\.){part}\.(?P<idx>\d+)\."
    try:
        regexp = linear.compiled(translate(parse(pattern), group="idx"))
    except (InvalidPatternError, UntranslatableError):
        return
    compiled = re.compile(pattern)
    for name in names:
        ours, theirs = regexp.match(name.encode()), compiled.match(name)
        assert (ours is None) == (theirs is None), name
        if ours is not None and theirs is not None:
            number = ours.group(1).decode() if regexp.groups and ours.group(1) is not None else None
            assert number == theirs.groupdict().get("idx"), name


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=40) | st.text(r"\()[]{}?*+|^$.:P<>=!#-,aZ0i", max_size=40))
def test_any_text_is_a_pattern_or_none(text: str) -> None:
    try:
        translate(parse(text))
    except (InvalidPatternError, UntranslatableError):
        pass


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (r"^(?!.*vision).*self_attn\.(?:q_proj|v_proj)$", NAMES),
        (r"(.*)\.(?:\d+)\..*(?<=q_proj)", NAMES),
        (r"(?P<one>\w+)\.(?P=one).*", [*NAMES, "model.model.q_proj"]),
        (r"(?i:MODEL)\.LAYERS\..*", NAMES),
        (r"(?>model)\.layers.*", NAMES),
        (r"(?:a|b?)*c", ["abac", "c", "bd"]),
        (r"模型\.\d+", ["模型.12", "模型.١٢", "模型.x"]),
        (r"a\d$", ["a1", "a1\n", "a١"]),
        (r"\Ba", ["a", ""]),
        ("a{2000}", ["a" * 2000, "a" * 1999]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_translated_means_the_same(pattern: str, names: list[str]) -> None:
    assert patterns.whole(pattern, names) == whole(pattern, names)
    assert patterns.endings(["nothing", pattern], names) == endings(["nothing", pattern], names)


def test_layers_that_a_child_process_finds() -> None:
    parts = [r"(?=none)x", r"(?!vision)layers", "h"]
    assert patterns.layers(parts, NAMES) == layers(parts, NAMES)


def test_a_key_that_is_a_pattern_only_where_it_is_put() -> None:
    names = ["x.a", "a", "b", "x.b"]
    assert patterns.endings(["a)|(b"], names) == endings(["a)|(b"], names) == [0, 0, 0, -1]


@pytest.mark.parametrize("pattern", ["(((", "a{99999999999}", "(?a)(?u)x", r"\Uffffffff", "[a", "(?P<n>a)(?P<n>b)"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises((re.error, ValueError, OverflowError)):
        re.compile(pattern)
    with pytest.raises(InvalidPatternError):
        patterns.check(pattern)
    with pytest.raises(InvalidPatternError):
        patterns.whole(pattern, NAMES)
    with pytest.raises(InvalidPatternError):
        patterns.endings([pattern], NAMES)
    with pytest.raises(InvalidPatternError):
        patterns.layers([pattern], NAMES)


def test_what_only_compiling_finds_out() -> None:
    for pattern in ("(?<=a+)b", "(?<!a*)"):
        patterns.check(pattern)
        with pytest.raises(InvalidPatternError):
            patterns.whole(pattern, NAMES)
    with pytest.raises(InvalidPatternError):
        patterns.endings(["(?i)q_proj"], NAMES)  # flags stand at the start, and PEFT puts something before it
