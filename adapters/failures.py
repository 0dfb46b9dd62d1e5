"""Every reason why an adapter or a base model is not used: a stable code, a sentence, and what to do about it.

Rows store the code and its details; the text is made in the reader's language when it is shown. Codes are part of the
API: they are never renamed. `manage.py failure_codes` writes `docs/failure-codes.md` from this file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from django.utils.functional import Promise
from django.utils.translation import gettext, gettext_noop
from django.utils.translation import gettext_lazy as _

from common.numbers import grouped

CHECK_FAILED = "check_failed"  # an error that nobody thought of

Area = Literal[
    "files", "config", "weights", "repair", "base", "effect", "store", "merge", "import", "fleet", "gate", "remark"
]
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
        self.details = {key: _tame(value) for key, value in details.items()}  # (of lists, each text)

    @property
    def message(self) -> str:
        return render(self.code, self.details)


def _tame(value: Any) -> Any:
    if isinstance(value, list):
        return [_tame(one) for one in value[:20]]
    if not isinstance(value, str):
        return value
    short = value if len(value) <= 300 else value[:140] + " ... " + value[-140:]
    return "".join(c if c.isprintable() else "\ufffd" for c in short)


class ActivationFailed(Refused):
    """An activation ended in a refusal: 422 in the API."""

    def __init__(self, code: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(code, **(details or {}))


class PassingRefusal(Refused):  # noqa: N818
    """Says nothing of the adapter: it stays as it was, and may be tried again."""


class BusyError(Exception):
    """Somebody else is at the same adapter or scan: 409 in the API. `code`: `busy`, `scan_running`, `merge_running`…"""

    def __init__(self, code: str = "busy") -> None:
        super().__init__(code)
        self.code = code


class _Blank(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


# What os.strerror says of the errors that folders and disks meet: reasons as well.
SYSTEM_REASONS = (
    gettext_noop("Permission denied"),
    gettext_noop("Operation not permitted"),
    gettext_noop("No such file or directory"),
    gettext_noop("Input/output error"),
    gettext_noop("No space left on device"),
    gettext_noop("Disk quota exceeded"),
    gettext_noop("Read-only file system"),
    gettext_noop("Stale file handle"),
    gettext_noop("Is a directory"),
    gettext_noop("Not a directory"),
    gettext_noop("File name too long"),
    gettext_noop("Too many open files"),
    gettext_noop("Device or resource busy"),
    gettext_noop("Directory not empty"),
)
PLACE = re.compile(r"%\((\w+)\)s")


def _shown(key: str, details: dict[str, Any]) -> Any:
    """Reasons and advice are marked with gettext_noop where they are raised, and translated and filled in here."""
    value = details[key]
    if key == "kinds" and isinstance(value, list):
        return " · ".join(str(FAILURES[kind].sentence).rstrip(".。") for kind in value if kind in FAILURES)
    if key in {"reason", "advice"} and isinstance(value, str) and value:
        return PLACE.sub(lambda place: str(details.get(place[1], "?")), gettext(value))
    return grouped(value)


def _fill(text: Text, details: dict[str, Any]) -> str:
    plain = str(text)
    try:
        return plain % _Blank({key: _shown(key, details) for key in details})
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
        return gettext("Rejected with the code %(code)s, which this version does not recognise.") % {"code": code}
    first = sentence(code, details or {})
    return first + ("" if first.endswith("。") else " ") + remedy(code, details or {})  # Chinese puts no space there


_CATALOGUE = [
    # Files
    Failure(
        "incomplete",
        "files",
        _("The folder is still being written (%(reason)s)."),
        _("Wait until training or copying has finished, then scan again."),
    ),
    Failure(
        "files_missing",
        "files",
        _("The adapter's folder no longer exists."),
        _("Restore the folder or mount its disk, then scan again."),
    ),
    Failure(
        "config_missing",
        "files",
        _("adapter_config.json is missing next to the weights."),
        _("Copy adapter_config.json from the training output, then scan again."),
    ),
    Failure(
        "weights_missing",
        "files",
        _("The folder has adapter_config.json but neither adapter_model.safetensors nor adapter_model.bin."),
        _(
            "If training is still running, wait for it to finish; otherwise copy the weights from the "
            "training output. Then scan again."
        ),
    ),
    Failure(
        "other_format",
        "files",
        _("adapter_model.safetensors is missing; %(file)s contains weights in another format."),
        _("%(advice)s"),
    ),
    Failure(
        "outside_root",
        "files",
        _("%(file)s is a link that points outside the configured folders."),
        _("Replace the link with the file itself, or add the target folder to LORA_ROOTS."),
    ),
    Failure(
        "unreadable",
        "files",
        _("%(file)s cannot be read (%(reason)s)."),
        _("Grant the server's user read access, then scan again."),
    ),
    Failure(
        "not_a_file",
        "files",
        _("%(file)s is not a regular file."),
        _("Replace it with the file that training wrote."),
    ),
    Failure(
        "changed_meanwhile",
        "files",
        _("The files changed while they were being read."),
        _("Wait until no process is writing to the folder, then try again."),
    ),
    Failure(
        "undeletable",
        "files",
        _("The folder could not be deleted (%(reason)s)."),
        _("Grant the server's user write access to the folder, or delete it manually."),
    ),
    Failure(
        CHECK_FAILED,
        "files",
        _("The folder could not be checked because of an unexpected error."),
        _("See the server log for the error and report it. Every scan checks the folder again."),
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
        _("This is not a config file written by PEFT. Copy the file from the training output again."),
    ),
    Failure(
        "config_invalid",
        "config",
        _("In adapter_config.json, %(field)s has an invalid value (%(reason)s)."),
        _("Correct the field, or train again with a valid value."),
    ),
    Failure(
        "config_unknown_key",
        "config",
        _(
            "adapter_config.json sets %(field)s, which this version does not support, so the adapter cannot "
            "be applied exactly."
        ),
        _("If the key has no effect, remove it from the file; otherwise merge the adapter into its base model."),
    ),
    Failure(
        "pattern_too_slow",
        "config",
        _("The regular expression in %(field)s takes too long to match."),
        _("Replace the regular expression with a list of module names."),
    ),
    Failure(
        "unsupported_peft_type",
        "config",
        _("The adapter is of type %(peft_type)s; only LORA is supported."),
        _("%(advice)s"),
    ),
    Failure(
        "unsupported_task_type",
        "config",
        _("The adapter was trained for %(task_type)s; only CAUSAL_LM is supported."),
        _("Train an adapter for a causal language model."),
    ),
    Failure(
        "dora_unsupported",
        "config",
        _("The adapter uses DoRA (use_dora), which the fleet does not support."),
        _("Merge it into its base model with PEFT's merge_and_unload, or train with use_dora=false."),
    ),
    Failure(
        "modules_to_save_unsupported",
        "config",
        _("The adapter replaces whole layers (%(modules)s) that cannot be replaced for it alone."),
        _("Merge it into its base model with PEFT's merge_and_unload, or train without modules_to_save."),
    ),
    Failure(
        "bias_unsupported",
        "config",
        _("The adapter trains biases (%(field)s) that the base model does not have or the fleet does not support."),
        _("Train with bias='none' and lora_bias=false, or merge the adapter into its base model."),
    ),
    Failure(
        "vocabulary_resized",
        "config",
        _(
            "The adapter's embeddings have another size than those of its base model, and cannot be used as they were "
            "saved (%(reason)s)."
        ),
        _(
            "Save the adapter again with its embedding and output layer, and its tokenizer beside it; or merge it into "
            "its base model with PEFT's merge_and_unload and use the result as a base model."
        ),
    ),
    Failure(
        "tokenizer_differs",
        "config",
        _("The adapter's tokenizer is not its base model's with added tokens (%(reason)s)."),
        _(
            "Select the base model that it was trained on, or train with that model's tokenizer and add tokens to it. "
            "If training did not use this tokenizer, remove it from the folder."
        ),
    ),
    Failure(
        "tokens_unsupported",
        "config",
        _("The adapter's tokenizer adds tokens to its base model's (%(count)s), which the fleet does not support."),
        _("Merge it into its base model with PEFT's merge_and_unload and use the result as a base model."),
    ),
    Failure(
        "layer_replication_unsupported",
        "config",
        _("The adapter repeats layers of its base model (layer_replication), which is not supported."),
        _("Merge it into its base model with PEFT's merge_and_unload and use the result as a base model."),
    ),
    Failure(
        "init_changes_base",
        "config",
        _("The adapter was initialised with %(method)s, which also changes the weights of the base model."),
        _(
            "Convert it to a standard LoRA (save_pretrained with path_initial_model_for_weight_conversion; "
            "LLaMA-Factory writes it to pissa_converted) and use that folder."
        ),
    ),
    Failure(
        "variant_unsupported",
        "config",
        _("The adapter uses %(field)s, a LoRA variant that is not supported."),
        _("Merge it into its base model with PEFT's merge_and_unload, or train a standard LoRA."),
    ),
    Failure(
        "parameters_unsupported",
        "config",
        _("The adapter changes fused expert weights (target_parameters: %(parameters)s), which is not supported."),
        _(
            "Merge it into its base model with PEFT's merge_and_unload and use the result as a base model, or train "
            "with target_modules only."
        ),
    ),
    Failure(
        "fan_in_fan_out_mismatch",
        "config",
        _("The config sets fan_in_fan_out, but the base model's layers do not store their weights that way."),
        _("Set fan_in_fan_out to false in adapter_config.json."),
    ),
    # Weights
    Failure(
        "weights_truncated",
        "weights",
        _("The weights file is truncated: it has %(size)s of %(expected)s bytes."),
        _("Copy the file from the training output again, or save the adapter again."),
    ),
    Failure(
        "weights_empty",
        "weights",
        _(
            "The adapter was saved without gathering: %(empty)s of %(total)s tensors are empty placeholders left by "
            "DeepSpeed ZeRO stage 3, such as %(example)s."
        ),
        _(
            "Save with stage3_gather_16bit_weights_on_model_save, or gather the checkpoint with its "
            "zero_to_fp32.py and save the adapter from the result."
        ),
    ),
    Failure(
        "weights_flat",
        "weights",
        _(
            "The adapter was saved without gathering: %(flat)s of %(total)s LoRA matrices are flat pieces of one "
            "process, such as %(example)s."
        ),
        _(
            "Gather the parameters before saving (FSDP: a full state dict; ZeRO-3: "
            "stage3_gather_16bit_weights_on_model_save), then save the adapter again."
        ),
    ),
    Failure(
        "weights_malformed",
        "weights",
        _("The weights file is not a valid safetensors file (%(reason)s)."),
        _("Copy the file from the training output again, or save the adapter again."),
    ),
    Failure(
        "header_too_large",
        "weights",
        _("The weights file declares a header of %(size)s bytes; the limit is %(limit)s."),
        _("This file was not written by PEFT. Save the adapter again."),
    ),
    Failure(
        "dtype_unsupported",
        "weights",
        _("%(tensor)s is stored as %(dtype)s; F32, F16 and BF16 are supported."),
        _("Save the adapter in one of these data types."),
    ),
    Failure(
        "tensors_mismatch",
        "weights",
        _(
            "Only %(matched)s of %(total)s tensors belong to the base model %(base)s; %(example)s, for "
            "example, does not."
        ),
        _("Check that the correct base model is set and that the file was written by PEFT's save_pretrained."),
    ),
    Failure(
        "tensors_missing",
        "weights",
        _(
            "The config targets %(expected)s modules of %(base)s, but the file contains only %(total)s; "
            "%(example)s is missing."
        ),
        _("Save the adapter again; every targeted module must be in the file."),
    ),
    Failure(
        "tensors_untargeted",
        "weights",
        _("The file contains %(total)s modules that the config does not target, such as %(example)s."),
        _("Copy adapter_config.json and the weights from the same training run."),
    ),
    Failure(
        "tensors_unserved",
        "weights",
        _("The adapter changes %(total)s modules that are not supported as LoRA targets, such as %(example)s."),
        _("Merge it into its base model with PEFT's merge_and_unload, or train only attention and dense layers."),
    ),
    Failure(
        "rank_mismatch",
        "weights",
        _("%(module)s has rank %(found)s in the file but %(expected)s in the config."),
        _("Copy adapter_config.json and the weights from the same training run."),
    ),
    Failure(
        "weights_nonfinite",
        "weights",
        _("%(tensor)s contains non-finite values (NaN or infinity)."),
        _("Training diverged. Use an earlier checkpoint, or train again with a lower learning rate."),
    ),
    Failure(
        "pickle_refused",
        "weights",
        _("adapter_model.bin could not be converted (%(reason)s)."),
        _("Save the adapter with safe_serialization=True, which writes adapter_model.safetensors."),
    ),
    Failure(
        "template_unusable",
        "config",
        _("The adapter's own chat template cannot be used (%(reason)s)."),
        _("Correct chat_template.jinja or tokenizer_config.json in its folder, or remove the template."),
    ),
    # Repair: what stands in the way can be put right without loss
    Failure(
        "repairable",
        "repair",
        _("The files hold a LoRA that fits, in a form that has to be repaired first (%(kinds)s)."),
        _(
            "Look at the changes on the adapter's page and choose “Repair and activate”; this writes a new copy and "
            "leaves the training folder as it is."
        ),
    ),
    Failure(
        "repair_ambiguous",
        "repair",
        _("The files can be read in two ways, and nothing in them tells which is right: %(first)s, or %(second)s."),
        _("Save the adapter again with PEFT's save_pretrained, or correct its keys and config by hand."),
    ),
    Failure(
        "keys_wrapped",
        "repair",
        _("The keys contain the names of training wrappers (_orig_mod of torch.compile, or those of FSDP)."),
        _("The repair removes them."),
    ),
    Failure(
        "keys_adapter_name",
        "repair",
        _("The keys contain the adapter's name, such as lora_A.default.weight."),
        _("The repair removes it."),
    ),
    Failure(
        "keys_prefix",
        "repair",
        _("The keys begin differently from those of the base model (base_model.model., language_model.)."),
        _("The repair gives them the only beginning with which every tensor fits."),
    ),
    Failure(
        "keys_of_base",
        "repair",
        _("The file also contains layers of the base model itself, unchanged."),
        _("The repair leaves them out."),
    ),
    Failure(
        "format_mlx",
        "repair",
        _("The adapter was trained with MLX, which stores both matrices transposed."),
        _("The repair transposes them and writes PEFT's config, with lora_alpha = scale × rank."),
    ),
    Failure(
        "format_torchtune",
        "repair",
        _("The keys are those of torchtune."),
        _("The repair renames them, and reorders the rows of Q and K where torchtune rotates neighbouring pairs."),
    ),
    Failure(
        "format_mistral",
        "repair",
        _("The keys are those of mistral-finetune."),
        _("The repair renames them, and reorders the rows of Q and K."),
    ),
    Failure(
        "format_megatron",
        "repair",
        _("The keys are those of Megatron or NeMo, where one matrix stands for several layers."),
        _("The repair splits B of linear_qkv and linear_fc1 among their layers, and gives each the same A."),
    ),
    Failure(
        "weights_sharded",
        "repair",
        _("The weights lie in several files with an index."),
        _("The repair writes one file."),
    ),
    # Base
    Failure(
        "base_not_found",
        "base",
        _("The base model %(base)s is not available on this server."),
        _("Place it in BASE_MODELS_DIR, or choose the base model for this adapter manually. Then scan again."),
    ),
    Failure(
        "base_not_recorded",
        "base",
        _("The adapter does not record its base model."),
        _("Choose the base model for this adapter manually."),
    ),
    Failure(
        "base_ambiguous",
        "base",
        _("Several base models match %(base)s: %(candidates)s."),
        _("Choose the base model for this adapter manually."),
    ),
    Failure(
        "base_mismatch",
        "base",
        _("The adapter does not match %(base)s: %(tensor)s has shape %(found)s instead of %(expected)s."),
        _("Choose the base model that the adapter was trained on."),
    ),
    Failure(
        "base_broken",
        "base",
        _("The base model %(base)s cannot be used: %(problem)s"),
        _("Fix the base model, then scan again."),
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
        _("Some of the base model's weights are missing (%(file)s)."),
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
        _("The base model is quantised with %(method)s, which is not supported."),
        _("Use the unquantised model; the engine can quantise it when loading it."),
    ),
    Failure(
        "base_unsupported",
        "base",
        _("The engine cannot run this base model exactly: %(reason)s."),
        _(
            "If the model's files may be incomplete, copy them again, then scan. Otherwise use a model with "
            "a supported architecture (see docs/engine.md), or a newer release that supports this one."
        ),
    ),
    # Effect, store
    Failure(
        "no_effect",
        "effect",
        _("The adapter has no effect: its answers are the same as the base model's (%(reason)s)."),
        _("Train longer or with a higher learning rate, and check that the correct folder was saved."),
    ),
    Failure(
        "adapter_incompatible",
        "effect",
        _("The engine could not load the adapter (%(reason)s)."),
        _("See the server log, and check that the base model is the one the adapter was trained on."),
    ),
    Failure(
        "legacy_failed",
        "effect",
        _("The previous system had marked this adapter as failed (%(reason)s)."),
        _("Scan, then activate the adapter; it will be checked again."),
    ),
    Failure(
        "store_full",
        "store",
        _("The adapter store does not have enough space for this adapter (%(reason)s)."),
        _("Free some space (manage.py clean_store removes unused copies), then try again."),
    ),
    Failure(
        "store_unwritable",
        "store",
        _("The adapter store cannot be written to (%(reason)s)."),
        _("Grant the server's user write access to VAR_DIR, then try again."),
    ),
    Failure(
        "store_lost",
        "store",
        _("The stored copy is missing and could not be recreated from the training folder."),
        _("Restore the training folder, then activate the adapter again."),
    ),
    Failure(
        "store_damaged",
        "store",
        _("The stored copy was damaged (%(reason)s) and could not be recreated from the training folder."),
        _("Activate the adapter again once its training folder is available, and check the disk of VAR_DIR."),
    ),
    # Merging an adapter into its base model
    Failure(
        "merge_unsupported",
        "merge",
        _("%(tensor)s of the adapter cannot be merged into the base model (%(reason)s)."),
        _("Serve the adapter here, or export it as it is."),
    ),
    Failure(
        "merge_quantised",
        "merge",
        _("The weights of %(base)s are quantised, so nothing can be merged into them exactly."),
        _("Choose the unquantised model as the adapter's base model, activate the adapter again, then merge."),
    ),
    Failure(
        "merge_overflow",
        "merge",
        _("A merged value of %(tensor)s does not fit into the number type of the result."),
        _("Merge with fp32."),
    ),
    Failure(
        "merge_unverified",
        "merge",
        _("What was written does not read back as the merged model (%(file)s)."),
        _("Check the disk of EXPORTS_DIR, then merge again; if it happens again, report it with the server's log."),
    ),
    Failure(
        "merge_no_space",
        "merge",
        _("The disk of EXPORTS_DIR became full while merging (%(reason)s)."),
        _("Delete merged models that are no longer needed, or free some space, then merge again."),
    ),
    Failure(
        "merge_interrupted",
        "merge",
        _("The portal ended while merging."),
        _("Merge again."),
    ),
    Failure(
        "merge_failed",
        "merge",
        _("Merging failed (%(reason)s)."),
        _("See the server log for details, then merge again."),
    ),
    # Imports from a hub
    Failure(
        "import_repo_not_found",
        "import",
        _("The hub has no repository %(repo)s, or this portal may not see it."),
        _("Check the name. For a private repository, HUB_TOKEN_FILE has to name a token that may read it."),
    ),
    Failure(
        "import_gated",
        "import",
        _("The owner of %(repo)s gives access to accounts only that have asked for it."),
        _("Ask for access on the hub's page with the account whose token HUB_TOKEN_FILE names, then import again."),
    ),
    Failure(
        "import_denied",
        "import",
        _("The hub refused access to %(repo)s."),
        _("Check that the token of HUB_TOKEN_FILE is valid and may read this repository."),
    ),
    Failure(
        "import_revision_not_found",
        "import",
        _("%(repo)s has no revision %(revision)s."),
        _("Enter a branch, a tag or a commit of the repository; main is the usual branch."),
    ),
    Failure(
        "import_no_adapter",
        "import",
        _("The repository holds no adapter: no folder has adapter_config.json and weights as safetensors."),
        _("Check the name: a base model or a merged model is not an adapter."),
    ),
    Failure(
        "import_pickle",
        "import",
        _("The adapter's weights are a pickle file only (adapter_model.bin), which is not accepted from outside."),
        _("Ask the repository's owner for safetensors, or save the adapter as safetensors yourself and upload it."),
    ),
    Failure(
        "import_too_many",
        "import",
        _("The adapters of the repository have more than %(limit)s files."),
        _("Download what is needed and upload it."),
    ),
    Failure(
        "import_too_large",
        "import",
        _("The files have %(size)s bytes; an import may have at most %(limit)s."),
        _("Raise UPLOAD_MAX_BYTES if files of this size are wanted here."),
    ),
    Failure(
        "import_quota",
        "import",
        _("The files have %(size)s bytes, for which your uploads have no room; they may take %(quota)s bytes in all."),
        _("Delete adapters that you uploaded or imported, with their files, then import again."),
    ),
    Failure(
        "import_no_space",
        "import",
        _("The server's disk has no room for %(size)s bytes more."),
        _("Free some space on the disk of UPLOADS_DIR, then import again."),
    ),
    Failure(
        "import_unreachable",
        "import",
        _("The hub could not be reached, or the connection was lost (%(host)s)."),
        _("Import again later: it continues where it ended. If this persists, check HF_ENDPOINT and the network."),
    ),
    Failure(
        "import_rate_limited",
        "import",
        _("The hub answers no further requests of this portal for now."),
        _("Import again later: it continues where it ended. With a token (HUB_TOKEN_FILE) hubs allow more."),
    ),
    Failure(
        "import_redirected",
        "import",
        _("The hub sent the import on to %(host)s, which is not among the permitted hosts."),
        _("If the hub keeps its files there, add the host to HUB_FILE_HOSTS."),
    ),
    Failure(
        "import_private",
        "import",
        _("%(host)s leads to a private address."),
        _("If the hub is in your own network, set HUB_PRIVATE_HOSTS=true."),
    ),
    Failure(
        "import_bad_answer",
        "import",
        _("The hub gave an answer that is not understood (%(reason)s)."),
        _("Check that HF_ENDPOINT names a server with Hugging Face's API."),
    ),
    Failure(
        "import_digest",
        "import",
        _("What arrived of %(file)s is not what the hub says it is: its checksum differs. Nothing was kept."),
        _("Import again; if it happens again, the mirror or something on the way changes the file."),
    ),
    Failure(
        "import_too_long",
        "import",
        _("The import took too long."),
        _("Import again: it continues where it ended."),
    ),
    Failure(
        "import_interrupted",
        "import",
        _("The portal ended during the import."),
        _("Import again: it continues where it ended."),
    ),
    Failure(
        "import_failed",
        "import",
        _("The import failed (%(reason)s)."),
        _("See the server log for details, then import again."),
    ),
    # Fleet: INFERENCE_BACKEND=vllm
    Failure(
        "fleet_rank",
        "fleet",
        _("The adapter's rank %(rank)s exceeds the fleet's maximum (%(limit)s)."),
        _(
            "Start the replicas with a higher --max-lora-rank and set FLEET_MAX_RANK to the same, or train with a "
            "smaller rank."
        ),
    ),
    Failure(
        "fleet_load_refused",
        "fleet",
        _("The fleet found the adapter but could not load it (%(reason)s)."),
        _("See the replica's log for the reason. Often its model does not support adapters on these layers."),
    ),
    Failure(
        "fleet_not_seen",
        "fleet",
        _("The fleet cannot find the adapter that was published for it."),
        _(
            "Check that FLEET_DIR is the folder that VLLM_LORA_RESOLVER_CACHE_DIR names on every replica, that the "
            "plugin lora_filesystem_resolver is on, and that the replicas may read the folder. Then activate again."
        ),
    ),
    Failure(
        "fleet_base_missing",
        "fleet",
        _("No address of the fleet serves the base model %(base)s."),
        _(
            "Start a replica with this model and name it in VLLM_URL; where it has another name there, write "
            "NAME=http://… with the name that is shown here."
        ),
    ),
    Failure(
        "fleet_unreachable",
        "fleet",
        _("The fleet could not be used (%(reason)s)."),
        _("Check on the Monitoring page which address is unavailable, then activate again."),
    ),
    Failure(
        "fleet_key_refused",
        "fleet",
        _("The fleet rejected the portal's API key."),
        _("Set VLLM_API_KEY to the key that the replicas were started with, then activate again."),
    ),
    Failure(
        "fleet_unwritable",
        "fleet",
        _("The adapter could not be published for the fleet (%(reason)s)."),
        _("Give the server's user write access to FLEET_DIR and free some space there, then activate again."),
    ),
    # Gates: nothing is wrong with the adapter, it stays as it was
    Failure(
        "gate_waiting",
        "gate",
        _("The gate for %(family)s has not judged these files yet."),
        _(
            "They are evaluated as soon as the server has time; the adapter's page shows the result. To activate the "
            "adapter without it, state a reason."
        ),
    ),
    Failure(
        "gate_not_new",
        "gate",
        _("The gate has looked at these files before, by another version of its set or against another adapter."),
        _("Have them evaluated again, or activate the adapter: that asks for an evaluation."),
    ),
    Failure(
        "gate_unlisted",
        "gate",
        _("What is active, failed, missing, incomplete or a duplicate is not evaluated for the gate by itself."),
        _("Have the files evaluated, or activate the adapter: that asks for an evaluation."),
    ),
    Failure(
        "gate_below_bar",
        "gate",
        _("%(passed)s of %(judged)s answers passed; the gate for %(family)s requires at least %(least)s."),
        _("Activate another checkpoint. To activate this one anyway, state a reason."),
    ),
    Failure(
        "gate_worse",
        "gate",
        _(
            "%(passed)s of %(judged)s answers passed, fewer than the %(other)s of the active adapter %(against)s; the "
            "gate for %(family)s requires as many."
        ),
        _("Activate another checkpoint. To activate this one anyway, state a reason."),
    ),
    Failure(
        "gate_unjudged",
        "gate",
        _("The gate for %(family)s could not judge these files (%(why)s)."),
        _(
            "The adapter's page says more, and has it evaluated again. To activate the adapter without a result, "
            "state a reason."
        ),
    ),
    Failure(
        "gate_cancelled",
        "gate",
        _("The gate's evaluation was cancelled or deleted."),
        _("Have the adapter evaluated again."),
    ),
    Failure(
        "gate_set_missing",
        "gate",
        _("The gate's prompt set is deleted, not shared any more, or has no items with checks."),
        _("Choose another prompt set for the gate, or add checks to this one."),
    ),
    Failure(
        "gate_owner_missing",
        "gate",
        _("The account that saved the gate is deleted, deactivated or no operator any more."),
        _("Save the gate again: evaluations run as the operator who saved it last."),
    ),
    # Remarks: shown as flags, they stop nothing
    Failure(
        "gate_overridden",
        "remark",
        _("Activated though the gate for %(family)s objected (%(objection)s). The reason stated: “%(stated)s”."),
        _("No action is needed."),
    ),
    Failure(
        "repaired",
        "remark",
        _("The adapter's files were repaired; the repaired copy is what is served, the training folder is unchanged."),
        _("No action is needed. If the training folder changes, the repair is checked again."),
    ),
    Failure(
        "task_type_differs",
        "remark",
        _("The config does not say CAUSAL_LM (task_type), but every tensor fits the base model."),
        _("No action is needed if the adapter was trained to continue text."),
    ),
    Failure(
        "targets_repeated",
        "remark",
        _("The config names a module more than once (target_modules)."),
        _("No action is needed: each module is changed once."),
    ),
    Failure(
        "config_keys_unknown",
        "remark",
        _("The config has keys that this version does not know; they are kept and have no effect, as in PEFT."),
        _("Compare the answers with those of the training environment if the config comes from a newer PEFT."),
    ),
    Failure(
        "tokens_added",
        "remark",
        _("The folder's tokenizer adds tokens beyond the base model's vocabulary (added_tokens.json)."),
        _("No action is needed if the adapter was not trained on these tokens."),
    ),
    Failure(
        "weights_unwrapped",
        "remark",
        _("adapter_model.bin holds the tensors inside a larger checkpoint (state_dict); only those were taken."),
        _("No action is needed."),
    ),
    Failure(
        "contains_code",
        "remark",
        _("The folder contains or references Python code (auto_map); the code is never run."),
        _("No action is needed unless the adapter requires this code."),
    ),
    Failure(
        "own_tokenizer",
        "remark",
        _("The folder contains its own tokenizer: the base model's is used, with the tokens that this one adds."),
        _("No action is needed if training changed nothing else in the tokenizer."),
    ),
    Failure(
        "own_chat_template",
        "remark",
        _("The folder contains its own chat template, which is used for this adapter."),
        _("No action is needed. If the template changes, activate the adapter again."),
    ),
    Failure(
        "diverged",
        "remark",
        _("Training diverged: from some step to the end, the loss is NaN or infinite."),
        _("Use an earlier checkpoint, or train again, for example with a lower learning rate."),
    ),
    Failure(
        "base_name_differs",
        "remark",
        _("The recorded base model has a different name from the one used here."),
        _("Make sure that both are the same model; matching tensor shapes are not sufficient proof."),
    ),
    Failure(
        "store_mended",
        "remark",
        _("The stored copy was damaged (%(reason)s) and has been recreated from the training folder."),
        _("No action is needed. If it happens again, check the disk of VAR_DIR."),
    ),
    Failure(
        "source_missing",
        "remark",
        _("The training folder no longer exists; the stored copy is used."),
        _("No action is needed while the adapter is active. To activate it again later, restore the folder."),
    ),
    Failure(
        "source_broken",
        "remark",
        _("The training folder has changed and can currently not be activated; the stored copy is used."),
        _("Fix the folder before activating again."),
    ),
]

FAILURES: dict[str, Failure] = {failure.code: failure for failure in _CATALOGUE}
