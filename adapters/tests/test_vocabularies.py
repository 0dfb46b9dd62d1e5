"""Tokenizers and embeddings of an adapter's own: what goes into the stored copy, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from adapters import services, store
from adapters.formats import added_tokens
from adapters.lifecycle.mending import Outcome, mend
from adapters.models import LoraAdapter, Status
from adapters.tests import layouts as make

pytestmark = pytest.mark.django_db

KNOWN = 58  # tokens of the base; the other rows of its embedding are padding
VOCABULARY = {f"t{number}": number for number in range(KNOWN - 1)}
END = {"id": KNOWN - 1, "content": "<end>", "special": True}
CALL = {"id": KNOWN, "content": "<call>", "special": False, "normalized": True, "lstrip": False}
TOOL = {"id": KNOWN + 1, "content": "<tool>", "special": True, "rstrip": True}
MERGES = [["t1", "t2"], ["t3", "t4"]]
EMBEDDING, HEAD = "base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"


def tokenizer(*added: dict[str, Any], vocabulary: dict[str, int] = VOCABULARY, merges: Any = MERGES) -> dict[str, Any]:
    return {"version": "1.0", "added_tokens": [END, *added], "normalizer": None,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": merges}}  # fmt: skip


@pytest.fixture
def root(registry: Path, tmp_path: Path) -> Path:
    make.write_json(tmp_path / "models" / make.BASE_NAME / "tokenizer.json", tokenizer())
    return registry


def rows(name: str, count: int) -> make.Tensors:
    return {name: ("F32", (count, make.HIDDEN), make.values((count, make.HIDDEN), seed=3))}


def with_tokens(folder: Path, *added: dict[str, Any], tensors: make.Tensors | None = None, **changes: Any) -> Path:
    make.adapter(folder, {**(tensors or {}), **make.lora_tensors()}, **changes)
    make.write_json(folder / "tokenizer.json", tokenizer(*added))
    return folder


def activated() -> LoraAdapter:
    services.scan(None)
    return services.activate(LoraAdapter.objects.get().pk, None)


def said(adapter: LoraAdapter) -> Any:
    return json.loads((store.entry(adapter.digest) / store.PROMPTING).read_bytes())


STORED = [
    {"id": KNOWN, "content": "<call>", "normalized": True},
    {"id": KNOWN + 1, "content": "<tool>", "special": True, "rstrip": True},
]


def test_added_tokens_are_stored_and_part_of_the_identity(root: Path, operator: User) -> None:
    folder = with_tokens(root / "one", TOOL, CALL)
    adapter = activated()
    assert said(adapter)["added_tokens"] == STORED and adapter.prompting["added_tokens"] == 2
    client = Client()
    client.force_login(operator)
    page = client.get(f"/models/{adapter.pk}", follow=True).content.decode()
    assert "with 2 added tokens" in page.partition('data-testid="tokenizer"')[2].partition("</dd>")[0]
    file = store.entry(adapter.digest) / store.PROMPTING
    file.chmod(0o600)
    file.write_text("{}")
    assert mend(adapter.digest) is Outcome.MENDED and said(adapter)["added_tokens"] == STORED
    make.write_json(folder / "tokenizer.json", tokenizer(CALL))
    services.scan(None)
    adapter.refresh_from_db()
    assert adapter.update_available
    assert services.activate(adapter.pk, None).digest != adapter.digest


def test_a_tokenizer_that_adds_nothing_changes_no_identity(root: Path) -> None:
    """Saved by another release, with its merges written in another way, or without a token that the base has."""
    plain = store.digest_of((str(root),), str(make.adapter(root / "plain")))
    for name, found in {"same": tokenizer(), "merges": tokenizer(merges=["t1 t2", "t3 t4"]),
                        "fewer": {**tokenizer(), "added_tokens": []}}.items():  # fmt: skip
        make.write_json(make.adapter(root / name) / "tokenizer.json", found)
        services.scan(None)
        assert services.activate(LoraAdapter.objects.get(name=name).pk, None).digest == plain


def test_tokens_that_no_tokenizer_json_lists(root: Path) -> None:
    """Older releases write them beside a tokenizer in another form."""
    folder = make.adapter(root / "one")
    make.write_json(folder / "added_tokens.json", {"<call>": KNOWN, "<end>": KNOWN - 1, "<tool>": KNOWN + 1})
    make.write_json(folder / "special_tokens_map.json", {"additional_special_tokens": ["<tool>"]})
    assert said(activated())["added_tokens"] == [STORED[0], {"id": KNOWN + 1, "content": "<tool>", "special": True}]


OTHERS: dict[str, Any] = {
    "an id": tokenizer(vocabulary={**VOCABULARY, "t0": 1, "t1": 0}),
    "a token of the base": tokenizer({**CALL, "id": 5}),
    "an id of the base": tokenizer({**CALL, "content": "t7"}),
    "twice": tokenizer(CALL, {**TOOL, "id": KNOWN}),
    "fewer": tokenizer(vocabulary={"t0": 0}),
    "more": tokenizer(vocabulary={**VOCABULARY, "new": KNOWN}),
    "merges": tokenizer(merges=MERGES[::-1]),
    "none": {"version": "1.0"},
    "many": tokenizer(*({"id": KNOWN + n, "content": f"<{n}>"} for n in range(added_tokens.MOST + 1))),
    "long": tokenizer({**CALL, "content": "x" * 201}),
    "odd": {"model": {"vocab": {"t0": [[]]}}, "added_tokens": {}},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_tokenizer_than_the_bases_is_refused(root: Path, name: str) -> None:
    make.write_json(make.adapter(root / "one") / "tokenizer.json", OTHERS[name])
    with pytest.raises(services.ActivationFailed) as caught:
        activated()
    adapter = LoraAdapter.objects.get()
    assert (caught.value.code, adapter.status) == ("tokenizer_differs", Status.FAILED)
    assert "%(" not in adapter.failure_message and "?" not in adapter.failure_message


def test_where_nothing_can_be_compared_the_bases_tokenizer_serves(registry: Path) -> None:
    with_tokens(registry / "one", CALL)
    assert activated().status == Status.ACTIVE  # the base's file lists no tokens


def test_one_child_compares_the_tokenizers_of_a_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    compare = added_tokens._compare

    def counted(*args: Any) -> str:
        compared.append(1)
        return compare(*args)

    monkeypatch.setattr(added_tokens, "_compare", counted)
    monkeypatch.setattr(added_tokens, "_known", {})
    for name in ("a", "b", "c"):
        with_tokens(root / name, TOOL)
    services.scan(None)
    for adapter in LoraAdapter.objects.all():
        services.activate(adapter.pk, None)
    assert len(compared) == 1


MORE = make.VOCAB + 3


@pytest.mark.parametrize(
    ("tensors", "changes"),
    [(rows(EMBEDDING, MORE), {}), (rows(EMBEDDING, KNOWN + 2), {}), (rows(EMBEDDING, MORE) | rows(HEAD, MORE), {}),
     (rows(EMBEDDING, MORE) | rows(HEAD, MORE), {"modules_to_save": ["embed_tokens", "lm_head"]})],
    ids=["more", "fewer", "both", "as copies"],
)  # fmt: skip
def test_embeddings_of_another_size_are_kept(root: Path, tensors: make.Tensors, changes: dict[str, Any]) -> None:
    with_tokens(root / "one", CALL, tensors=tensors, **changes)
    adapter = activated()
    assert set(tensors) < store.names(adapter.digest) and adapter.status == Status.ACTIVE
    services.scan(None)
    adapter.refresh_from_db()
    assert not adapter.update_available and adapter.failure_code == ""


@pytest.mark.parametrize(
    ("tensors", "changes"),
    [(rows(HEAD, MORE), {}), (rows(EMBEDDING, MORE) | rows(HEAD, MORE + 1), {}),
     (rows(EMBEDDING, MORE) | rows(HEAD, make.VOCAB), {}),
     (rows(EMBEDDING, MORE), {"modules_to_save": ["embed_tokens"]}),
     ({EMBEDDING: ("F32", (MORE, 8), make.values((MORE, 8)))}, {})],
    ids=["head alone", "two sizes", "head as it was", "a copy alone", "another width"],
)  # fmt: skip
def test_rows_that_were_not_saved_are_refused_at_the_scan(
    root: Path, tensors: make.Tensors, changes: dict[str, Any]
) -> None:
    with_tokens(root / "one", CALL, tensors=tensors, **changes)
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    assert adapter.failure_code == "vocabulary_resized" and "%(" not in adapter.failure_message


def test_a_token_without_a_row_is_refused(root: Path) -> None:
    with_tokens(root / "one", CALL, TOOL, tensors=rows(EMBEDDING, KNOWN + 1))
    with pytest.raises(services.ActivationFailed) as caught:
        activated()
    assert (caught.value.code, caught.value.details["token"]) == ("vocabulary_resized", "<tool>")


def test_an_embedding_of_another_size_beside_its_lora(root: Path) -> None:
    """The matrices fit the rows that were saved with them."""
    own = rows(EMBEDDING.replace(".weight", ".base_layer.weight"), MORE)
    pair = {"base_model.model.model.embed_tokens.lora_embedding_A": ("F32", (4, MORE), make.values((4, MORE))),
            "base_model.model.model.embed_tokens.lora_embedding_B": ("F32", (16, 4), make.values((16, 4)))}  # fmt: skip
    with_tokens(root / "one", CALL, tensors={**own, **pair}, target_modules=["q_proj", "v_proj", "embed_tokens"])
    assert activated().status == Status.ACTIVE
