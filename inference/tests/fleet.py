"""What tests of the fleet share: a base's folder, stored adapters, a manager over fake replicas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inference.backends.fleet.backend import FleetBackend
from inference.backends.fleet.catalogue import Address
from inference.backends.fleet.flights import Uses
from inference.backends.fleet.resources import FleetOptions
from inference.backends.interface import Request
from inference.engine.content import CONFIG, PROMPTING, WEIGHTS, combine
from inference.engine.params import SamplingParams
from inference.engine.protocol import AdapterSpec, BaseSpec
from inference.manager import ModelManager

TEMPLATE = (
    "{% for m in messages %}{{ bos_token }} {{ m['role'] }}: {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def write_base(folder: Path, **tokenizer: Any) -> BaseSpec:
    folder.mkdir(parents=True, exist_ok=True)
    said = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": TEMPLATE, **tokenizer}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return {"key": "b" * 64, "path": str(folder), "name": folder.name}


def store(folder: Path, name: str, prompting: dict[str, Any] | None = None, **config: Any) -> AdapterSpec:
    """A stored copy below `folder`. What is in the weights does not matter to whoever only hands them on."""
    import hashlib

    said = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], **config}
    files = {CONFIG: json.dumps(said).encode(), WEIGHTS: f"weights of {name}".encode()}
    if prompting is not None:
        files[PROMPTING] = json.dumps(prompting).encode()
    hashes = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    digest = combine(hashes[CONFIG], hashes[WEIGHTS], hashes.get(PROMPTING, ""))
    entry = folder / digest
    entry.mkdir(parents=True)
    for file, data in files.items():
        (entry / file).write_bytes(data)
    return {"digest": digest, "path": str(entry), "name": name, "prompting": hashes.get(PROMPTING, "")}


def fleet_manager(folder: Path, *urls: str | Address, uses: Uses | None = None, **options: Any) -> ModelManager:
    addresses = tuple(url if isinstance(url, Address) else Address(url) for url in urls)
    made = FleetOptions(addresses, folder, **{"silence": 5.0, **options})
    return ModelManager(lambda on_verdict: FleetBackend(made, on_verdict, uses))


def question(base: BaseSpec, prompt: str, adapter: AdapterSpec | None = None, **params: Any) -> Request:
    return Request("u1", base, adapter, prompt=prompt, params=SamplingParams(**params))
