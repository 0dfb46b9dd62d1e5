"""The real runner: a base in memory, adapters into its bank, and a step from rows to tokens; the engine's only door to
torch."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inference.engine import content
from inference.engine.config import EngineConfig
from inference.engine.errors import EngineError
from inference.engine.faults import ENDS_PROCESS, unforeseen
from inference.engine.lora import adapter_file, blend
from inference.engine.lora.bank import AdapterFile, AdapterWeights
from inference.engine.lora.proof import Prober
from inference.engine.protocol import AdapterSpec, BaseSpec, Member, PromptLogprob
from inference.engine.recipes import recipe_digest
from inference.engine.runner_interface import BaseInfo, OnProgress, ProofResult, SampledToken, StepResult
from inference.engine.scheduling.scheduler import Chunk
from inference.engine.scheduling.sequence import Reading, Sequence
from inference.engine.text import prompts
from inference.engine.text.prompting import NOTHING
from inference.engine.text.rendering import RENDERER

from . import base_loader, loaded_base, memory, own_parts
from .hardware import Hardware
from .loaded_base import TOLERANCE, LoadedBase
from .naming import Naming
from .promptings import Promptings
from .sampler import Drawing, Sampled, generator, sample
from .scoring import Mark, Score, score
from .step_rows import StepRows
from .token_text import TokenText
from .tokenizers import Tokenizers

WIDEST = 2  # bytes of a file for one byte in the bank at most: fp32 on disk, bf16 in the bank


class Runner:
    """See `runner_interface.BaseRunner`."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.hardware = Hardware(config)
        self.device = str(self.hardware.device)
        self.tokenizers = Tokenizers()
        self.promptings = Promptings()
        RENDERER.start()
        self.base: LoadedBase | None = None

    # Base

    @torch.inference_mode()
    def load_base(self, spec: BaseSpec, progress: OnProgress) -> BaseInfo:
        """Raises EngineError and leaves nothing behind, whatever the base's files and its architecture's code do."""
        try:
            self.base = loaded_base.load(spec, self.config, self.hardware, progress)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold the model
            self.unload_base()
            if isinstance(error, (EngineError, *ENDS_PROCESS)):
                raise
            raise base_loader.load_error(error, Path(spec["path"])) from error
        return self.base.info

    def unload_base(self) -> int:
        """Free base, adapters and cache. Returns the bytes that their tensors held."""
        held = self.memory()
        self.base = None
        gc.collect()
        self.hardware.release()
        return held["base"] + held["kv"] + held["adapters"]

    def memory(self) -> dict[str, int]:
        base = self.base
        used, total = self.hardware.used_bytes()
        return {
            "base": base.info.bytes if base else 0,
            "adapters": base.model.bank.bytes if base else 0,
            "adapter_budget": self.config.adapter_bytes,
            "kv": base.info.kv_bytes if base else 0,
            "rss": memory.resident_set(),
            "rss_peak": memory.resident_peak(),
            "rss_limit": memory.ram_limit(),
            "device_used": used,
            "device_peak": self.hardware.peak_bytes(),
            "device_total": total,
        }

    def _loaded(self) -> LoadedBase:
        if self.base is None:
            raise RuntimeError("no base is loaded")
        return self.base

    # Text

    def encode(
        self, spec: BaseSpec, messages: list[dict[str, str]] | None, prompt: str | None, continue_last: bool,
        adapter: AdapterSpec | None = None,
    ) -> list[int]:  # fmt: skip
        prompting = self.promptings.of(adapter)
        raw = self.config.raw_control_tokens
        tokenizer = self.tokenizers.for_adapter(spec, adapter, prompting)
        return prompts.encode(tokenizer, messages, prompt, continue_last, prompting, raw)

    def encode_pair(
        self, spec: BaseSpec, messages: list[dict[str, str]] | None, prompt: str | None, continuation: str,
        adapter: AdapterSpec | None = None,
    ) -> tuple[list[int], int]:  # fmt: skip
        prompting, raw = self.promptings.of(adapter), self.config.raw_control_tokens
        tokenizer = self.tokenizers.for_adapter(spec, adapter, prompting)
        return prompts.encode_pair(tokenizer, messages, prompt, continuation, prompting, raw)

    def manner(self, spec: BaseSpec, adapter: AdapterSpec | None) -> tuple[frozenset[int], Mapping[str, Any]]:
        prompting = self.promptings.of(adapter)
        if prompting is NOTHING:
            return frozenset(), prompting.defaults
        return prompting.ends(self.tokenizers.for_adapter(spec, adapter, prompting)), prompting.defaults

    def context_length(self, spec: BaseSpec) -> int:
        base = self.base
        if base is not None and base.info.key == spec["key"]:
            return base.info.context
        with content.unchanged(spec):
            return min(self.config.max_context, base_loader.positions(Path(spec["path"])))

    def decode(self, tokens: list[int], adapter: str | None = None) -> str:
        return self._text(adapter).decode(tokens)

    def spell(self, tokens: list[int], adapter: str | None = None) -> str:
        return self._text(adapter).vocabulary.spelled(tokens)

    def token_name(self, token: int, adapter: str | None = None) -> str:
        resident = self._loaded().model.bank.resident
        return self._text(adapter if adapter in resident else None).name(token)

    def _text(self, adapter: str | None) -> TokenText:
        """Raises KeyError for an adapter that is not resident: its text is not the base's."""
        base = self._loaded()
        own: TokenText | None = base.model.bank.resident[adapter].text if adapter is not None else None
        return own or base.text

    # Adapters

    def read_adapter(self, spec: AdapterSpec) -> AdapterWeights:
        base = self.base
        if base is None:
            raise EngineError("adapter_load_failed", "The base was unloaded meanwhile.")
        with torch.inference_mode():
            limit = WIDEST * self.config.adapter_bytes
            read = self._blended(base, spec, limit) if spec.get("members") else read_one(base, spec, limit)
            own = own_parts.build(read, base.parts)
            packed = base.model.bank.pack(read)
            packed.own = own
        added = self.promptings.of(spec).added
        packed.text = base.text_of(added, packed.vocabulary or base.text.logits, spec["name"])
        return packed

    def _blended(self, base: LoadedBase, spec: AdapterSpec, limit: int) -> AdapterFile:
        """A blend's members, each proven by its digest, as one adapter. Files of `limit` bytes altogether at most.

        Raises EngineError, with name and digest of the member that is at fault.
        """
        members = spec["members"]
        if recipe_digest((member["digest"], member["weight"]) for member in members) != spec["digest"]:
            raise EngineError("adapter_load_failed", "The blend is not what its digest names.", name=spec["name"])
        parts: list[tuple[AdapterFile, float]] = []
        for member in members:
            try:
                one = read_one(base, member, limit)
                own_parts.check_linear(one, base.parts)
                if self.promptings.of_member(member).added:  # its tokens are nothing to the others
                    raise own_parts.unblendable("added_tokens")
            except EngineError as error:
                error.detail = {"name": member["name"], "digest": member["digest"], **error.detail}
                raise
            limit -= one.bytes
            parts.append((one, member["weight"]))
        return blend.joined(spec["digest"], spec["name"], parts)

    def add_adapter(self, loaded: Any) -> None:
        with torch.inference_mode():
            self._loaded().model.add(loaded)

    def remove_adapter(self, digest: str) -> None:
        if self.base is not None:
            self.base.prober.forget(digest)
            with torch.inference_mode():
                self.base.model.remove(digest)

    def begin_proof(self, digest: str) -> None:
        self._loaded().prober.begin(digest)

    # Steps

    def start(self, sequence: Sequence) -> None:
        """Give a sequence its generator and, where it asks for one, its grammar."""
        text = self._text(sequence.adapter)
        # None may be banned that is never drawn.
        sequence.ends = frozenset(token for token in sequence.ends if 0 <= token < text.logits)
        if sequence.params.temperature > 0.0:
            sequence.random = generator(sequence.params)
        sequence.grammar = text.constraints.grammar(sequence.params)

    def scrub(self, slot: int) -> None:
        if self.base is not None:
            with torch.inference_mode():
                self.base.model.cache.scrub(slot)

    @torch.inference_mode()
    def step(self, chunks: list[Chunk], proof_budget: int) -> StepResult:
        """One step; raises EngineError `out_of_memory` or `internal_error`, after which it may be tried again."""
        base = self.base
        try:
            if chunks or proof_budget:
                return self._step(self._loaded(), chunks, proof_budget)
            self._check()
            return StepResult()
        except BaseException as error:
            if base is not None:
                base.prober.start()  # what the failed step left of a proof in its slot is not to be trusted
            if isinstance(error, (EngineError, *ENDS_PROCESS)):
                raise
            raise step_error(error) from error

    def _check(self) -> None:
        """The base's own probe, in the prober's slot; without a base a sum on the device."""
        if self.base is None:
            torch.ones(2, device=self.hardware.device).sum().item()
            return
        model, prober, rows = self.base.model, self.base.prober, StepRows()
        prober.start()  # a proof under way had its keys and values there
        rows.add_chunk(prober.tokens, None, model.probe_slot, 0, [len(prober.tokens) - 1])
        model.ordinary(rows, rows.logit_rows).sum().item()

    def _step(self, base: LoadedBase, chunks: list[Chunk], proof_budget: int) -> StepResult:
        """One forward pass over all chunks and a piece of the proof under way, then one token for each sequence whose
        end it reached."""
        # Decoding rows first, in the order of their slots, so that neighbours read neighbouring memory.
        order = sorted(
            range(len(chunks)), key=lambda i: (chunks[i].stop - chunks[i].start != 1, chunks[i].sequence.slot)
        )
        rows = StepRows()
        asked: list[int] = []
        marks: list[Mark] = []
        for index in order:
            chunk = chunks[index]
            sequence, start, stop, last = chunk.sequence, chunk.start, chunk.stop, chunk.last
            marks += (Mark(index, len(rows.tokens) + at - start, sequence.tokens[at + 1]) for at in chunk.scored)
            if stop - start == 1:
                rows.add_decoding(sequence.tokens[start], sequence.adapter, sequence.slot, stop, last)
            else:
                wanted = (stop - 1,) if last else ()
                rows.add_chunk(sequence.tokens[start:stop], sequence.adapter, sequence.slot, start, wanted)
            if last:
                asked.append(index)
        before = len(rows.tokens)
        if base.prober.digest and proof_budget > 0:
            piece = base.prober.piece(proof_budget)
            rows.add_chunk(
                base.prober.tokens[piece.start : piece.stop], base.prober.digest, base.model.probe_slot, piece.start,
                base.prober.wanted(piece.start, piece.stop),
            )  # fmt: skip
        result = StepResult([None] * len(chunks), probed=len(rows.tokens) - before)
        nobody = not rows.logit_rows
        if nobody:
            rows.logit_rows.append(len(rows.tokens) - 1)  # the model wants at least one row
        if marks:
            logits, hidden = base.model.reading(rows, [mark.row for mark in marks], TOLERANCE[base.info.precision])
            tops = [reading_of(chunks[mark.chunk]).top or 0 for mark in marks]
            tokens = [mark.token for mark in marks]
            scores = score(hidden, tokens, tops, logits.shape[-1], base.model.logits_of)
        else:
            logits, scores = base.model.forward(rows), []
        result.scored = self._scored(chunks, marks, scores)
        if nobody:
            return result
        asks = [self._ask(chunks[index].sequence, base.info) for index in asked]
        # From here on sequences have drawn: what fails belongs to one of them, and the step is not tried again.
        for index, sampled in zip(asked, sample(logits[: len(asked)], asks), strict=True):
            result.choices[index] = self._choice(chunks[index].sequence, sampled)
        try:
            proving = base.model.bank.resident.get(base.prober.digest)
            own = proving.vocabulary if proving is not None else 0
            result.proof = advance(base.prober, logits[len(asked) :], own or None)
        except Exception as error:  # noqa: BLE001  (the proof's own; every sequence has its token)
            result.proof_error = step_error(error)
        return result

    def _ask(self, sequence: Sequence, info: BaseInfo) -> Drawing:
        params = sequence.params
        early = sequence.generated < params.min_tokens
        banned = sorted(info.eos | sequence.ends) if early or params.ignore_eos else []
        if early:
            banned += params.stop_token_ids
        return Drawing(
            params, sequence.tokens, sequence.prompt_length, sequence.random, banned, sequence.grammar,
            self._text(sequence.adapter).logits,
        )  # fmt: skip

    def _scored(
        self, chunks: list[Chunk], marks: list[Mark], scores: list[Score]
    ) -> dict[int, list[PromptLogprob] | EngineError]:
        """What is to be told of the prompts' tokens, by chunk."""
        found: dict[int, list[PromptLogprob] | EngineError] = {}
        namings: dict[str | None, Naming] = {}

        def naming_of(chunk: Chunk) -> Naming:
            adapter = chunk.sequence.adapter
            if adapter not in namings:
                namings[adapter] = self._naming(adapter)
            return namings[adapter]

        for index, chunk in enumerate(chunks):
            if chunk.start == 0 and chunk.sequence.untold and reading_of(chunk).told == 0:
                naming = naming_of(chunk)
                found[index] = [naming.item(chunk.sequence.tokens[0], None, [], first=True)]
        for mark, one in zip(marks, scores, strict=True):
            items = found.setdefault(mark.chunk, [])
            if isinstance(items, EngineError):
                continue
            if one.logprob is None:
                found[mark.chunk] = EngineError("nonfinite_logits", "The model's output is not finite.")
                continue
            tokens = chunks[mark.chunk].sequence.tokens
            at = reading_of(chunks[mark.chunk]).told + len(items)
            naming = naming_of(chunks[mark.chunk])
            items.append(naming.item(mark.token, one.logprob, one.top, naming.opens(tokens, at)))
        return found

    def _naming(self, adapter: str | None) -> Naming:
        text = self._text(adapter)
        return Naming(text.vocabulary, text.decode)

    def _choice(self, sequence: Sequence, sampled: Sampled) -> SampledToken:
        try:
            if sampled.error is not None:
                raise sampled.error
            ended = sampled.token >= 0 and sequence.grammar is not None and sequence.grammar.take(sampled.token)
            if sampled.logprob is None or sampled.token < 0:
                return SampledToken(sampled.token, ended=ended)
            return SampledToken(sampled.token, self._logprob(sequence, sampled), ended)
        except ENDS_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001  (grammars and tokenizers may panic; it is this request's)
            return SampledToken(-1, error=step_error(error))

    def _logprob(self, sequence: Sequence, sampled: Sampled) -> dict[str, Any]:
        """protocol.Logprob without its offset."""
        naming = self._naming(sequence.adapter)
        item: Any = naming.item(sampled.token, sampled.logprob, sampled.top or [], first=not sequence.generated)
        del item["offset"]
        return dict(item)


def read_one(base: LoadedBase, spec: AdapterSpec | Member, limit: int) -> AdapterFile:
    """A stored copy, whose file has `limit` bytes at most, as `lora/adapter_file.py` reads it."""
    return adapter_file.read(
        Path(spec["path"]), spec["digest"], spec["name"], base.model.bank.kinds, base.parts.places,
        limit, base.idle, base.earlier_names, base.parts.others,
    )  # fmt: skip


def reading_of(chunk: Chunk) -> Reading:
    """Of a sequence that has one."""
    assert chunk.sequence.reading is not None  # noqa: S101  (for the type checker)
    return chunk.sequence.reading


def advance(prober: Prober, logits: Tensor, own: int | None) -> ProofResult | None:
    """Take in the proof's logits (positions, vocabulary) of a step, see `Prober.compare`; the verdict once they are all
    there."""
    if not prober.digest:
        return None
    if len(logits):
        prober.compare(logits, own)
    if prober.done < len(prober.tokens):
        return None
    verdict = prober.verdict()
    prober.forget(prober.digest)
    return verdict


def step_error(error: BaseException) -> EngineError:
    """What ends the step, or the one row of it, that raised `error`."""
    if isinstance(error, EngineError):
        return error
    if base_loader.ran_out_of_memory(error):
        return EngineError("out_of_memory", "Memory ran out during a step.")
    return unforeseen(error)
