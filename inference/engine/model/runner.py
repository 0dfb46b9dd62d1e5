"""The real runner: a Transformers model, its KV slots and its LoRA bank; the engine's only door to torch."""

from __future__ import annotations

import gc
import math
import os
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from inference.engine import content
from inference.engine.config import EngineConfig
from inference.engine.errors import EngineError
from inference.engine.faults import ENDS_PROCESS, unforeseen
from inference.engine.locks import DeviceLock
from inference.engine.lora import adapter_file
from inference.engine.lora.bank import AdapterWeights, LoraBank
from inference.engine.lora.proof import PROBE_LIMIT, Prober, probe_tokens
from inference.engine.lora.segment_bank import SegmentBank
from inference.engine.lora.stacked_bank import StackedBank
from inference.engine.native.library import Native, native_library
from inference.engine.protocol import AdapterSpec, BaseSpec
from inference.engine.runner_interface import BaseInfo, Choice, Progress, ProofResult, StepResult
from inference.engine.scheduling.scheduler import Chunk
from inference.engine.scheduling.sequence import Sequence
from inference.engine.text import prompts

from . import base_loader, linear, mapped, memory, norms
from .attention import DecodeRows, KVCache, PromptRows, StepAttention
from .base_support import check_interface, refused, trace_layers
from .cuda_graphs import DecodeGraphs, SlotAttention
from .grammar import Constraints
from .sampler import Ask, Sampled, generator, sample

RESERVE = 512 * 2**20  # bytes kept free for activations and the tokenizer
WIDEST = 2  # bytes of a file for one byte in the bank at most: fp32 on disk, bf16 in the bank
PROBE = 12  # tokens of the run that traces the linear layers
# How far our logits may lie from the model's own, relative to the largest: rounding, not mathematics.
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "nf4": 5e-2}
NO_EFFECT = {"fp32": 1e-5, "bf16": 4e-3, "nf4": 4e-3}


class Runner:
    """See `runner_interface.BaseRunner`."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        use_cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
        self.torch_device = torch.device("cuda", 0) if use_cuda else torch.device("cpu")
        self.device = str(self.torch_device)
        if self.torch_device.type == "cpu":
            torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
        self.tokenizers: dict[str, Any] = {}
        self.model: PreTrainedModel | None = None
        self.bank: LoraBank | None = None
        self.cache: KVCache | None = None
        self.places: dict[str, tuple[str, int, int]] = {}
        self.prober: Prober | None = None
        self.proving: str | None = None
        self.info: BaseInfo | None = None
        self.decoder: Any = None  # a tokenizer of its own: `encode` runs on another thread
        self.constraints: Constraints | None = None
        self.lock: DeviceLock | None = None
        self.fixed = self.torch_device.type == "cuda" and config.cuda_graphs  # decode on fixed buffers
        self.graphs: DecodeGraphs | None = None
        self.native: Native | None = None

    # Base ------------------------------------------------------------------------------------------------------

    def precision(self, spec: BaseSpec) -> str:
        asked = spec.get("precision") or self.config.precision
        if asked != "auto":
            return asked
        if self.torch_device.type == "cpu":
            return "fp32"
        needed = base_loader.needed_bytes(Path(spec["path"]), "cuda")
        return "bf16" if needed["bf16"] + 2 * RESERVE <= self.free_bytes() * 0.75 else "nf4"

    def free_bytes(self) -> int:
        """What the engine may still take on its device."""
        if self.torch_device.type == "cpu":
            return memory.available_ram()
        free, total = torch.cuda.mem_get_info(self.torch_device)
        limit = memory.gpu_limit(total, self.config.max_gpu_memory)
        return int(min(free, limit - torch.cuda.memory_reserved(self.torch_device)))

    @torch.inference_mode()
    def load_base(self, spec: BaseSpec, progress: Progress) -> BaseInfo:
        """Raises EngineError and leaves nothing behind, whatever the base's files and its architecture's code do."""
        try:
            return self._load(spec, progress)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold the model
            self.unload_base()
            if isinstance(error, (EngineError, *ENDS_PROCESS)):
                raise
            raise base_loader.load_error(error, Path(spec["path"])) from error

    def _load(self, spec: BaseSpec, progress: Progress) -> BaseInfo:
        folder = Path(spec["path"])
        content.check_base(spec)
        precision = self.precision(spec)
        needed = base_loader.needed_bytes(folder, self.torch_device.type)
        self.lock = self._take_device()
        self._cap_device()
        memory.check_base(spec["name"], needed, precision, self.free_bytes(), RESERVE)
        with content.unchanged(spec):
            tokenizer = self.decoder = base_loader.load_tokenizer(folder)
            progress("weights", 0.0)
            model = base_loader.load_model(folder, precision, self.torch_device, lambda done: progress("weights", done))
            self.model = model
            mapped.detach(model)
            context = min(self.config.max_context, base_loader.positions(folder))
        return self._take_in(spec, model, tokenizer, precision, context, progress)

    def _take_in(
        self, spec: BaseSpec, model: PreTrainedModel, tokenizer: Any, precision: str, context: int, progress: Progress
    ) -> BaseInfo:
        check_interface(model, spec["name"])
        embeddings: Any = model.get_input_embeddings()
        dtype: torch.dtype = embeddings.weight.dtype
        vocabulary = int(embeddings.weight.shape[0])
        probe, first = probe_tokens(tokenizer, PROBE_LIMIT, vocabulary)
        reference = self._own_logits(model, probe)
        seen, shapes = trace_layers(model, spec["name"], probe[:PROBE])
        native = self.native = self._native(dtype)
        installed = linear.install(
            model, seen, len(probe[:PROBE]), 1, lambda: self.bank, native, lambda done: progress("packing", done)
        )
        if native is not None:
            norms.install(model, native)
        self.places = installed.places
        size = installed.bytes + sum(parameter.nbytes for parameter in model.parameters())
        del seen
        gc.collect()
        stacked: StackedBank | None = None
        if native is not None:
            self.bank = SegmentBank(installed.kinds, native)
        else:
            self.bank = stacked = StackedBank(installed.kinds, self.torch_device, dtype)
        per_token = KVCache.bytes_per_token(shapes, dtype)
        free = max(0, self.free_bytes() - self.config.adapter_bytes)
        if self.torch_device.type == "cpu":
            free //= 2  # the rest of the machine lives here too
        plan = memory.plan_kv(per_token, context, self.config.max_batch, free, self.config.kv_bytes, RESERVE)
        self.cache = KVCache(shapes, plan.slots + 1, plan.context, self.torch_device, dtype)
        self.constraints = Constraints(tokenizer, reference.shape[-1])
        self.prober = Prober(probe, first, reference[first:], NO_EFFECT[precision])
        self._check_exact(spec, probe, reference, TOLERANCE[precision])
        if self.fixed and stacked is not None:
            self.graphs = DecodeGraphs(
                self._fixed_forward, self.cache, stacked, self.torch_device, TOLERANCE[precision]
            )
        self.info = BaseInfo(
            spec["key"], spec["name"], precision, plan.context, plan.slots,
            self._eos(model, tokenizer, reference.shape[-1]), size, plan.kv_bytes, vocabulary,
        )  # fmt: skip
        return self.info

    def _native(self, dtype: torch.dtype) -> Native | None:
        """The native kernels, where they serve: in fp32 on a CPU with a compiler."""
        if not self.config.native or self.torch_device.type != "cpu" or dtype != torch.float32:
            return None
        return native_library(str(Path(self.config.run_dir) / "native") if self.config.run_dir else "")

    def _own_logits(self, model: PreTrainedModel, tokens: list[int]) -> Tensor:
        """Logits (tokens, vocabulary) of the model as Transformers runs it, before anything is replaced."""
        ids = torch.tensor([tokens], device=self.torch_device)
        return model(ids, use_cache=False).logits[0].float()

    def _check_exact(self, spec: BaseSpec, tokens: list[int], reference: Tensor, tolerance: float) -> None:
        """The probe again through slots, chunks and packed weights must give the model's own logits."""
        half = len(tokens) // 2
        assert self.cache is not None  # noqa: S101  (for the type checker)
        slot = self.cache.slots - 1
        self._forward(tokens[:half], DecodeRows([], []), [PromptRows(0, half, slot, 0)], [None] * half, [half - 1])
        rest = len(tokens) - half - 1
        rows = list(range(rest))
        chunk = self._forward(
            tokens[half:-1], DecodeRows([], []), [PromptRows(0, rest, slot, half)], [None] * rest, rows
        )
        last = self._forward(tokens[-1:], DecodeRows([slot], [len(tokens)]), [], [None], [0])
        ours = torch.cat([chunk, last]).float()
        gap = float((ours - reference[half:]).abs().max()) / max(1e-9, float(reference.abs().max()))
        if not gap <= tolerance:
            raise refused(spec["name"], f"its logits differ by {gap:.1e} when computed by slots")

    def _eos(self, model: PreTrainedModel, tokenizer: Any, logits: int) -> frozenset[int]:
        """The ids that end an answer. One beyond the `logits` of a position is never drawn, and none may be banned."""
        ids: list[Any] = []
        for source in (getattr(model, "generation_config", None), model.config, tokenizer):
            value = getattr(source, "eos_token_id", None)
            ids += value if isinstance(value, list) else [value]
        return frozenset(item for item in ids if type(item) is int and 0 <= item < logits)

    def unload_base(self) -> int:
        """Free base, adapters and cache. Returns the bytes that their tensors held."""
        freed = self.memory()["base"] + self.memory()["kv"] + self.memory()["adapters"]
        self.model = self.bank = self.cache = self.prober = self.info = self.decoder = self.constraints = None
        self.graphs = self.native = None
        self.places = {}
        self.proving = None
        gc.collect()
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()
        if self.lock is not None:
            self.lock.release()
            self.lock = None
        return freed

    def _take_device(self) -> DeviceLock | None:
        if self.torch_device.type != "cuda":
            return None
        return DeviceLock(self.device)

    def _cap_device(self) -> None:
        """Let the allocator fail at the limit rather than take what the desktop or another program needs."""
        if self.torch_device.type == "cuda":
            total = torch.cuda.get_device_properties(self.torch_device).total_memory
            limit = memory.gpu_limit(total, self.config.max_gpu_memory)
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), self.torch_device)

    # Text ------------------------------------------------------------------------------------------------------

    def tokenizer(self, spec: BaseSpec) -> Any:
        # By the folder's state as well: a chat template may change where nothing that makes up the key does.
        wanted = f"{spec['key']} {spec.get('signature', '')}"
        if wanted not in self.tokenizers:
            with content.unchanged(spec):
                made = base_loader.load_tokenizer(Path(spec["path"]))
            if len(self.tokenizers) >= 8:
                self.tokenizers.pop(next(iter(self.tokenizers)))
            self.tokenizers[wanted] = made
        return self.tokenizers[wanted]

    def encode(
        self, spec: BaseSpec, messages: list[dict[str, str]] | None, prompt: str | None, continue_last: bool
    ) -> list[int]:
        return prompts.encode(self.tokenizer(spec), messages, prompt, continue_last)

    def context_length(self, spec: BaseSpec) -> int:
        if self.info is not None and self.info.key == spec["key"]:
            return self.info.context
        with content.unchanged(spec):
            return min(self.config.max_context, base_loader.positions(Path(spec["path"])))

    def decode(self, tokens: list[int]) -> str:
        return str(self.decoder.decode(tokens, skip_special_tokens=True))

    def token_name(self, token: int) -> str:
        return str(self.decoder.convert_ids_to_tokens(token) or "") if type(token) is int else ""

    # Adapters --------------------------------------------------------------------------------------------------

    def read_adapter(self, spec: AdapterSpec) -> AdapterWeights:
        bank = self.bank
        if bank is None:
            raise EngineError("adapter_load_failed", "The base was unloaded meanwhile.")
        with torch.inference_mode():
            return bank.pack(
                adapter_file.read(
                    Path(spec["path"]), spec["digest"], spec["name"], bank.kinds, self.places,
                    WIDEST * self.config.adapter_bytes,
                )
            )  # fmt: skip

    def add_adapter(self, loaded: Any) -> None:
        if self.bank is not None:
            self.bank.add(loaded)

    def remove_adapter(self, digest: str) -> None:
        if self.proving == digest:
            self.proving = None
        if self.bank is not None:
            with torch.inference_mode():
                self.bank.remove(digest)

    def begin_proof(self, digest: str) -> None:
        assert self.prober is not None  # noqa: S101  (for the type checker)
        self.prober.start()
        self.proving = digest

    # Steps -----------------------------------------------------------------------------------------------------

    def start(self, sequence: Sequence) -> None:
        """Give a sequence its generator and, where it asks for one, its grammar."""
        if sequence.params.temperature > 0.0:
            sequence.random = generator(sequence.params)
        if self.constraints is not None:
            sequence.grammar = self.constraints.grammar(sequence.params)

    def step(self, chunks: list[Chunk], proof_budget: int) -> StepResult:
        """One step; raises EngineError `out_of_memory` or `internal_error`, after which it may be tried again."""
        try:
            return self._step(chunks, proof_budget) if chunks or proof_budget else self._check()
        except BaseException as error:
            if self.proving is not None and self.prober is not None:
                self.prober.start()  # what the failed step left of the proof in its slot is not to be trusted
            if isinstance(error, (EngineError, *ENDS_PROCESS)):
                raise
            raise step_error(error) from error

    @torch.inference_mode()
    def _check(self) -> StepResult:
        """The base's own probe, in the prober's slot; without a base a sum on the device."""
        if self.prober is None or self.cache is None:
            torch.ones(2, device=self.torch_device).sum().item()
            return StepResult()
        tokens, slot = self.prober.tokens, self.cache.slots - 1
        size = len(tokens)
        self.prober.start()  # a proof under way had its keys and values there
        self._ordinary_forward(
            tokens, DecodeRows([], []), [PromptRows(0, size, slot, 0)], [None] * size, [size - 1]
        ).sum().item()
        return StepResult()

    @torch.inference_mode()
    def _step(self, chunks: list[Chunk], proof_budget: int) -> StepResult:
        """One forward pass over all chunks and a piece of the proof under way, then one token for each sequence whose
        end it reached."""
        # Decoding rows first, in the order of their slots, so that neighbours read neighbouring memory.
        order = sorted(
            range(len(chunks)), key=lambda i: (chunks[i].stop - chunks[i].start != 1, chunks[i].sequence.slot)
        )
        decode, prompt_rows = DecodeRows([], []), []
        tokens: list[int] = []
        adapters: list[str | None] = []
        logit_rows: list[int] = []
        asked: list[int] = []
        for index in order:
            chunk = chunks[index]
            sequence, size = chunk.sequence, chunk.stop - chunk.start
            if size == 1:
                decode.slots.append(sequence.slot)
                decode.lengths.append(chunk.stop)
            else:
                prompt_rows.append(PromptRows(len(tokens), size, sequence.slot, chunk.start))
            tokens += sequence.tokens[chunk.start : chunk.stop]
            adapters += [sequence.adapter] * size
            if chunk.last:
                logit_rows.append(len(tokens) - 1)
                asked.append(index)
        before = len(tokens)
        probe_rows = self._add_probe(proof_budget, tokens, adapters, prompt_rows, logit_rows)
        result = StepResult([None] * len(chunks), probed=len(tokens) - before)
        if not logit_rows:
            logit_rows.append(len(tokens) - 1)  # the model wants at least one row
            self._forward(tokens, decode, prompt_rows, adapters, logit_rows)
            return result
        logits = self._forward(tokens, decode, prompt_rows, adapters, logit_rows)
        asks = [self._ask(chunks[index].sequence) for index in asked]
        # From here on sequences have drawn: what fails belongs to one of them, and the step is not tried again.
        for index, sampled in zip(asked, sample(logits[: len(asked)], asks), strict=True):
            result.choices[index] = self._choice(chunks[index].sequence, sampled)
        try:
            result.proof = self._proof(logits[len(asked) :] if probe_rows else None)
        except Exception as error:  # noqa: BLE001  (the proof's own; every sequence has its token)
            result.proof_error = step_error(error)
        return result

    def _proof(self, logits: Tensor | None) -> ProofResult | None:
        """Take in the proof's logits (positions, vocabulary) of a step; the verdict once they are all there."""
        if self.proving is None or self.prober is None:
            return None
        if logits is not None:
            self.prober.compare(logits)
        if self.prober.done < len(self.prober.tokens):
            return None
        verdict = self.prober.verdict()
        proof = ProofResult(self.proving, verdict.ok, verdict.code, verdict.message, verdict.kl, verdict.changed)
        self.proving = None
        return proof

    def _add_probe(
        self, budget: int, tokens: list[int], adapters: list[str | None], prompts_: list[PromptRows],
        logit_rows: list[int],
    ) -> int:  # fmt: skip
        """Add a piece of the proof to the step; returns how many rows of logits it wants."""
        if self.proving is None or self.prober is None or self.cache is None or budget < 1:
            return 0
        start = self.prober.done
        left = len(self.prober.tokens) - start
        size = math.ceil(left / math.ceil(left / max(2, budget)))  # pieces of one size, as few as the budget allows
        stop = start + size
        prompts_.append(PromptRows(len(tokens), size, self.cache.slots - 1, start))
        wanted = self.prober.wanted(start, stop)
        logit_rows += [len(tokens) + position - start for position in wanted]
        tokens += self.prober.tokens[start:stop]
        adapters += [self.proving] * size
        self.prober.done = stop
        return len(wanted)

    def _forward(
        self, tokens: list[int], decode: DecodeRows, prompt_rows: list[PromptRows], adapters: list[str | None],
        logit_rows: list[int],
    ) -> Tensor:  # fmt: skip
        """Logits (len(logit_rows), vocabulary)."""

        def ordinary() -> Tensor:
            return self._ordinary_forward(tokens, decode, prompt_rows, adapters, list(range(len(tokens))))

        if self.graphs is not None and not prompt_rows:
            logits = self.graphs.run(tokens, decode, adapters, ordinary)
            if logits is not None:
                return logits[logit_rows]
        return self._ordinary_forward(tokens, decode, prompt_rows, adapters, logit_rows)

    def _fixed_forward(self, ids: Tensor, step: SlotAttention) -> Tensor:
        assert self.model is not None  # noqa: S101  (for the type checker)
        every = torch.arange(step.rows, device=self.torch_device)
        output = self.model(
            ids, position_ids=step.positions[None], use_cache=False, logits_to_keep=every, step=step
        )  # fmt: skip
        return output.logits[0]

    def _ordinary_forward(
        self, tokens: list[int], decode: DecodeRows, prompt_rows: list[PromptRows], adapters: list[str | None],
        logit_rows: list[int],
    ) -> Tensor:  # fmt: skip
        assert self.model is not None and self.cache is not None and self.bank is not None  # noqa: S101
        device = self.torch_device
        step = StepAttention(self.cache, decode, prompt_rows, device, self.native)
        self.bank.prepare(adapters, logit_rows)
        output = self.model(
            torch.tensor([tokens], device=device),
            position_ids=step.positions[None],
            use_cache=False,
            logits_to_keep=torch.tensor(logit_rows, device=device),
            step=step,
        )
        return output.logits[0]

    def _ask(self, sequence: Sequence) -> Ask:
        params = sequence.params
        assert self.info is not None  # noqa: S101  (for the type checker)
        early = params.ignore_eos or sequence.generated < params.min_tokens
        return Ask(
            params, sequence.tokens, sequence.prompt_length, sequence.random,
            sorted(self.info.eos) if early else [], sequence.grammar,
        )  # fmt: skip

    def _choice(self, sequence: Sequence, sampled: Sampled) -> Choice:
        try:
            if sampled.error is not None:
                raise sampled.error
            return self._chosen(sequence, sampled)
        except ENDS_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001  (grammars and tokenizers may panic; it is this request's)
            return Choice(-1, error=step_error(error))

    def _chosen(self, sequence: Sequence, sampled: Sampled) -> Choice:
        ended = sampled.token >= 0 and sequence.grammar is not None and sequence.grammar.take(sampled.token)
        if sampled.logprob is None or sampled.token < 0:
            return Choice(sampled.token, ended=ended)
        top = [(self.decode([token]), token, value) for token, value in sampled.top or []]
        return Choice(
            sampled.token,
            {
                "token": self.decode([sampled.token]), "token_id": sampled.token, "logprob": sampled.logprob,
                "top": top,
            },
            ended,
        )  # fmt: skip

    def scrub(self, slot: int) -> None:
        if self.cache is not None:
            with torch.inference_mode():
                self.cache.scrub(slot)

    def memory(self) -> dict[str, int]:
        cuda = self.torch_device.type == "cuda"
        free, total = torch.cuda.mem_get_info(self.torch_device) if cuda else (0, 0)
        return {
            "base": self.info.bytes if self.info else 0,
            "adapters": self.bank.bytes if self.bank else 0,
            "adapter_budget": self.config.adapter_bytes,
            "kv": self.info.kv_bytes if self.info else 0,
            "rss": memory.resident_set(),
            "device_used": total - free,
            "device_total": total,
        }


def step_error(error: BaseException) -> EngineError:
    """What ends the step, or the one row of it, that raised `error`."""
    if isinstance(error, EngineError):
        return error
    if base_loader.ran_out_of_memory(error):
        return EngineError("out_of_memory", "Memory ran out during a step.")
    return unforeseen(error)
