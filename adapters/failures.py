"""Every reason why an adapter or a base model is not used: a stable code, a sentence, and what to do about it.

Rows store the code and its details; the text is made in the reader's language when it is shown. Codes are part of the
API: they are never renamed. `manage.py failure_codes` writes `docs/failure-codes.md` from this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

Area = Literal["files", "config", "weights", "base", "effect", "store", "remark"]
Text = str | Promise


@dataclass(frozen=True)
class Failure:
    """`sentence` and `remedy` may hold named placeholders (`%(name)s`) filled from the details."""

    code: str
    area: Area
    sentence: Text
    remedy: Text


class Refused(Exception):  # noqa: N818
    """An adapter or base model was checked and refused."""

    def __init__(self, code: str, **details: Any) -> None:
        super().__init__(code)
        self.code = code
        # Parts of foreign files end up in here: short, and nothing that a terminal or a database chokes on.
        self.details = {key: _tame(value) for key, value in details.items()}

    @property
    def message(self) -> str:
        return render(self.code, self.details)


def _tame(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    short = value if len(value) <= 300 else value[:140] + " ... " + value[-140:]
    return "".join(c if c.isprintable() else "\ufffd" for c in short)


class ActivationFailed(Refused):
    """An activation ended in a refusal: 422 in the API."""

    def __init__(self, code: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(code, **(details or {}))


class Busy(Exception):  # noqa: N818
    """Somebody else is at the same adapter or scan: 409 in the API. `code` is `busy` or `scan_running`."""

    def __init__(self, code: str = "busy") -> None:
        super().__init__(code)
        self.code = code


class _Blank(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def _told(key: str, value: Any) -> Any:
    """Reasons and advice are marked with gettext_noop where they are raised, and translated here."""
    return gettext(value) if key in {"reason", "advice"} and isinstance(value, str) and value else value


def _fill(text: Text, details: dict[str, Any]) -> str:
    plain = str(text)
    try:
        return plain % _Blank({key: _told(key, value) for key, value in details.items()})
    except (ValueError, TypeError):  # a stray percent sign in a translation must not break a page
        return plain


def sentence(code: str, details: dict[str, Any]) -> str:
    """What is wrong, without the remedy."""
    failure = FAILURES.get(code)
    return _fill(failure.sentence, details) if failure else code


def remedy(code: str, details: dict[str, Any]) -> str:
    """What to do about it."""
    failure = FAILURES.get(code)
    return _fill(failure.remedy, details) if failure else ""


def render(code: str, details: dict[str, Any] | None) -> str:
    """Sentence and remedy in the reader's language; "" for no code, the bare code for one from another version."""
    if not code:
        return ""
    if code not in FAILURES:
        return gettext("Refused with the code %(code)s, which this version does not know.") % {"code": code}
    return f"{sentence(code, details or {})} {remedy(code, details or {})}"


_CATALOGUE = [
    # Files
    Failure(
        "incomplete",
        "files",
        _("The folder is still being written (%(reason)s)."),
        _("Wait until training or copying has ended, then scan again."),
    ),
    Failure(
        "files_missing",
        "files",
        _("The adapter's folder is not there any more."),
        _("Bring the folder back or mount its disk, then scan again."),
    ),
    Failure(
        "config_missing",
        "files",
        _("There is no adapter_config.json beside the weights."),
        _("Copy adapter_config.json from the training output, then scan again."),
    ),
    Failure(
        "weights_missing",
        "files",
        _("There is an adapter_config.json but no adapter_model.safetensors or adapter_model.bin."),
        _("If training still runs, wait for it; else copy the weights from the training output. Then scan again."),
    ),
    Failure(
        "outside_root",
        "files",
        _("%(file)s is a link that leads out of the configured folders."),
        _("Put the file itself into the folder, or add its folder to LORA_ROOTS."),
    ),
    Failure(
        "unreadable",
        "files",
        _("%(file)s cannot be read (%(reason)s)."),
        _("Give the server's user read access, then scan again."),
    ),
    Failure(
        "not_a_file",
        "files",
        _("%(file)s is not an ordinary file."),
        _("Replace it by the file that training wrote."),
    ),
    Failure(
        "changed_meanwhile",
        "files",
        _("The files changed while they were read."),
        _("Wait until nothing writes to the folder, then try again."),
    ),
    Failure(
        "undeletable",
        "files",
        _("The folder could not be deleted (%(reason)s)."),
        _("Give the server's user write access to the folder, or delete it by hand."),
    ),
    # Config
    Failure(
        "config_malformed",
        "config",
        _("%(file)s is not valid JSON (%(reason)s)."),
        _("Copy the file from the training output again."),
    ),
    Failure(
        "config_too_large",
        "config",
        _("%(file)s is larger than %(limit)s bytes."),
        _("This is not a config that PEFT writes; copy the file from the training output again."),
    ),
    Failure(
        "config_invalid",
        "config",
        _("adapter_config.json: %(field)s has a value that is not allowed (%(reason)s)."),
        _("Correct the field, or train again with a sound setting."),
    ),
    Failure(
        "config_unknown_key",
        "config",
        _("adapter_config.json sets %(field)s, which this version does not know and so could not serve exactly."),
        _("If the key changes nothing, remove it from the file; else merge the adapter into its base model."),
    ),
    Failure(
        "pattern_too_slow",
        "config",
        _("The pattern in %(field)s takes too long to match."),
        _("Replace the pattern by the list of module names."),
    ),
    Failure(
        "unsupported_peft_type",
        "config",
        _("The adapter is of type %(peft_type)s; only LORA is served."),
        _("%(advice)s"),
    ),
    Failure(
        "unsupported_task_type",
        "config",
        _("The adapter was trained for %(task_type)s; only CAUSAL_LM is served."),
        _("Train an adapter of the causal language model."),
    ),
    Failure(
        "dora_unsupported",
        "config",
        _("The adapter uses DoRA (use_dora), which is not served yet."),
        _("Merge it into its base model with PEFT's merge_and_unload, or train with use_dora=false."),
    ),
    Failure(
        "modules_to_save_unsupported",
        "config",
        _("The adapter replaces whole layers (modules_to_save: %(modules)s), which would change the base for all."),
        _("Merge it into its base model with PEFT's merge_and_unload, or train without modules_to_save."),
    ),
    Failure(
        "bias_unsupported",
        "config",
        _("The adapter trains biases (%(field)s), which are not served yet."),
        _("Train with bias='none' and lora_bias=false, or merge the adapter into its base model."),
    ),
    Failure(
        "vocabulary_resized",
        "config",
        _("The adapter brings its own embeddings (%(reason)s)."),
        _("Merge it into its base model with PEFT's merge_and_unload and serve the result as a base model."),
    ),
    Failure(
        "layer_replication_unsupported",
        "config",
        _("The adapter repeats layers of its base model (layer_replication), which is not served."),
        _("Merge it into its base model with PEFT's merge_and_unload and serve the result as a base model."),
    ),
    Failure(
        "init_changes_base",
        "config",
        _("The adapter was started by %(method)s, which also changed the weights of its base model."),
        _(
            "Convert it to an ordinary LoRA (save_pretrained with path_initial_model_for_weight_conversion; "
            "LLaMA-Factory writes it to pissa_converted) and use that folder."
        ),
    ),
    Failure(
        "variant_unsupported",
        "config",
        _("The adapter uses %(field)s, a variant of LoRA that is not served."),
        _("Merge it into its base model with PEFT's merge_and_unload, or train plain LoRA."),
    ),
    Failure(
        "fan_in_fan_out_mismatch",
        "config",
        _("The config sets fan_in_fan_out, but the base model's layers are not of that kind."),
        _("Set fan_in_fan_out to false in adapter_config.json."),
    ),
    # Weights
    Failure(
        "weights_truncated",
        "weights",
        _("The weights file is cut off: %(size)s of %(expected)s bytes are there."),
        _("Copy the file from the training output again, or save the adapter again."),
    ),
    Failure(
        "weights_malformed",
        "weights",
        _("The weights file is not a sound safetensors file (%(reason)s)."),
        _("Copy the file from the training output again, or save the adapter again."),
    ),
    Failure(
        "header_too_large",
        "weights",
        _("The weights file claims a header of %(size)s bytes; %(limit)s are allowed."),
        _("This is not an adapter that PEFT writes; save the adapter again."),
    ),
    Failure(
        "dtype_unsupported",
        "weights",
        _("%(tensor)s is stored as %(dtype)s; F32, F16 and BF16 are served."),
        _("Save the adapter in one of these."),
    ),
    Failure(
        "tensors_mismatch",
        "weights",
        _("%(matched)s of %(total)s tensors belong to the base model %(base)s; for example %(example)s does not."),
        _("Check that the right base model is set and that PEFT's save_pretrained wrote the file."),
    ),
    Failure(
        "tensors_missing",
        "weights",
        _("The config names %(expected)s modules of %(base)s but the file holds %(total)s; %(example)s is missing."),
        _("Save the adapter again; every targeted module must be in the file."),
    ),
    Failure(
        "tensors_untargeted",
        "weights",
        _("The file holds %(total)s modules that the config does not target; for example %(example)s."),
        _("Copy adapter_config.json and the weights from the same training run."),
    ),
    Failure(
        "rank_mismatch",
        "weights",
        _("%(module)s has rank %(found)s in the file but %(expected)s by the config."),
        _("Copy adapter_config.json and the weights from the same training run."),
    ),
    Failure(
        "weights_nonfinite",
        "weights",
        _("%(tensor)s holds values that are not finite (NaN or infinity)."),
        _("Training diverged. Use an earlier checkpoint, or train with a lower learning rate."),
    ),
    Failure(
        "pickle_refused",
        "weights",
        _("adapter_model.bin could not be converted (%(reason)s)."),
        _("Save the adapter with safe_serialization=True, which writes adapter_model.safetensors."),
    ),
    # Base
    Failure(
        "base_not_found",
        "base",
        _("The base model %(base)s is not among the base models here."),
        _("Put it into BASE_MODELS_DIR, or choose the base model for this adapter by hand. Then scan again."),
    ),
    Failure(
        "base_not_recorded",
        "base",
        _("The adapter does not say which base model it belongs to."),
        _("Choose the base model for this adapter by hand."),
    ),
    Failure(
        "base_ambiguous",
        "base",
        _("Several base models match %(base)s: %(candidates)s."),
        _("Choose the base model for this adapter by hand."),
    ),
    Failure(
        "base_mismatch",
        "base",
        _("The adapter does not fit %(base)s: %(tensor)s has the shape %(found)s, which needs %(expected)s."),
        _("Choose the base model that the adapter was trained on."),
    ),
    Failure(
        "base_broken",
        "base",
        _("The base model %(base)s cannot be used: %(problem)s"),
        _("Repair the base model, then scan again."),
    ),
    Failure(
        "base_config_missing",
        "base",
        _("The base model's folder has no config.json."),
        _("Copy the whole model folder into BASE_MODELS_DIR."),
    ),
    Failure(
        "base_weights_missing",
        "base",
        _("The base model's weights are not all there (%(file)s)."),
        _("Copy the missing files; weights must be in safetensors format."),
    ),
    Failure(
        "base_tokenizer_missing",
        "base",
        _("The base model's folder has no tokenizer."),
        _("Copy tokenizer.json and tokenizer_config.json into the model folder."),
    ),
    Failure(
        "base_quantization_unsupported",
        "base",
        _("The base model is stored in a quantised form (%(method)s) that is not served."),
        _("Use the unquantised model; it is quantised here when it is loaded."),
    ),
    Failure(
        "base_unsupported",
        "base",
        _("The engine cannot serve this base model exactly: %(reason)s."),
        _(
            "Copy the model's files again where they may be incomplete, then scan. Otherwise use a model of a "
            "supported architecture (see docs/engine.md), or a newer release that knows this one."
        ),
    ),
    # Effect, store
    Failure(
        "no_effect",
        "effect",
        _("The adapter changes nothing: its answers are those of the base model (%(reason)s)."),
        _("Train longer or with a higher learning rate, and check that the right folder was saved."),
    ),
    Failure(
        "adapter_incompatible",
        "effect",
        _("The engine could not load the adapter (%(reason)s)."),
        _("See the server's log; check that the base model is the one it was trained on."),
    ),
    Failure(
        "legacy_failed",
        "effect",
        _("The older system had marked this adapter as failed (%(reason)s)."),
        _("Scan, then activate it: it is judged anew."),
    ),
    Failure(
        "store_full",
        "store",
        _("The adapter store has no room for this adapter (%(reason)s)."),
        _("Free some space (manage.py clean_store removes copies that are not used), then try again."),
    ),
    Failure(
        "store_unwritable",
        "store",
        _("The adapter store cannot be written (%(reason)s)."),
        _("Give the server's user write access to VAR_DIR, then try again."),
    ),
    Failure(
        "store_lost",
        "store",
        _("The stored copy is gone and could not be made again from the training folder."),
        _("Bring the training folder back, then activate the adapter again."),
    ),
    Failure(
        "store_damaged",
        "store",
        _("The stored copy was damaged (%(reason)s) and could not be made again from the training folder."),
        _("Activate the adapter again once its training folder is there; check the disk of VAR_DIR."),
    ),
    # Remarks: shown as flags, they stop nothing
    Failure(
        "contains_code",
        "remark",
        _("The folder holds Python code or names some (auto_map); it is never run."),
        _("Nothing to do, unless the adapter needs that code."),
    ),
    Failure(
        "own_tokenizer",
        "remark",
        _("The folder brings a tokenizer of its own; the base model's is used."),
        _("Nothing to do where training left the tokenizer as it was."),
    ),
    Failure(
        "own_chat_template",
        "remark",
        _("The folder brings a chat template of its own; the base model's is used."),
        _("Nothing to do where training left the template as it was."),
    ),
    Failure(
        "base_name_differs",
        "remark",
        _("The recorded base model has another name than the one that is used here."),
        _("Make sure that both are the same model; shapes alone do not tell."),
    ),
    Failure(
        "store_mended",
        "remark",
        _("The stored copy was bad (%(reason)s) and was made again from the training folder."),
        _("Nothing to do; where it happens again, check the disk of VAR_DIR."),
    ),
    Failure(
        "source_missing",
        "remark",
        _("The training folder is gone; the stored copy is served."),
        _("Nothing to do while the adapter is active; keep a backup if you want to activate it again."),
    ),
    Failure(
        "source_broken",
        "remark",
        _("The training folder has changed and could not be activated now; the stored copy is served."),
        _("Repair the folder before activating again."),
    ),
]

FAILURES: dict[str, Failure] = {failure.code: failure for failure in _CATALOGUE}
