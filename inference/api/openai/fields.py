"""Fields of OpenAI's calls, and of other servers that speak them, which this API does not take.

Whoever sends one may mean it: those that change no answer are ignored, and so are values that ask for nothing. Every
other field is refused by name, since the answer would be one to another question.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from django.utils.translation import gettext as _

from common.api import ApiError
from common.shapes import MAX_NAME

IGNORED = frozenset(
    """
    user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention parallel_tool_calls
    priority request_id cache_salt cache_prompt id_slot slot_id spaces_between_special_tokens
    length_penalty early_stopping guided_decoding_backend guided_whitespace_pattern
    mirostat_tau mirostat_eta dynatemp_low dynatemp_high dynatemp_exponent smoothing_curve xtc_threshold
    dry_base dry_allowed_length dry_sequence_breakers dry_penalty_last_n
    """.split()  # the last three lines: what only tunes another field, which is refused
)
# Values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    # OpenAI's own
    "tools": ([],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "tool_choice": ("none", "auto"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "logit_bias": ({},),
    "suffix": ("",),
    "echo": (False,),  # of chats
    "best_of": (1,),
    "top_logprobs": (0,),
    # vLLM's
    "use_beam_search": (False,),
    "bad_words": ([],),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "mm_processor_kwargs": ({},),
    "logits_processors": ([],),
    "detokenize": (True,),
    "skip_special_tokens": (True,),
    "include_reasoning": (True,),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    # Samplers of llama.cpp, of text-generation-webui and of what follows them
    "n_probs": (0,),
    "do_sample": (True,),
    "num_beams": (1,),
    "typical": (1,),
    "typical_p": (1,),
    "tfs": (1,),
    "tfs_z": (1,),
    "top_a": (0,),
    "top_n_sigma": (0, -1),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "dynamic_temperature": (False,),
    "dynatemp_range": (0,),
    "smoothing_factor": (0,),
    "xtc_probability": (0,),
    "dry_multiplier": (0,),
    "penalty_alpha": (0,),
    "no_repeat_ngram_size": (0,),
    "guidance_scale": (1,),
    "negative_prompt": ("",),
    "grammar": ("",),
    "grammar_string": ("",),
    "temperature_last": (False,),
    "ban_eos_token": (False,),
    "add_bos_token": (True,),
    "banned_strings": ([],),
    "banned_tokens": ("", []),
    "custom_token_bans": ("",),
}
# Of a message: what templates do not show a model.
OF_MESSAGES = frozenset(
    "role content name id refusal annotations reasoning reasoning_content reasoning_details timestamp metadata".split()
)


def unsupported(name: str) -> ApiError:
    message = _("%(param)s is not supported here.") % {"param": name}
    return ApiError("unsupported_parameter", message, 400, name)


def check_fields(given: Mapping[str, Any], taken: Container[str], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse what is neither `taken` nor without meaning; `neutral`: such values of this call alone.

    Raises ApiError `unsupported_parameter`.
    """
    for name, value in given.items():
        if name in taken or name in IGNORED or value is None:
            continue
        if value not in neutral.get(name, NEUTRAL.get(name, ())):
            raise unsupported(name[:MAX_NAME])


def check_message(given: Mapping[str, Any], where: str) -> None:
    """Raises ApiError `unsupported_parameter`."""
    for name, value in given.items():
        if value and name not in OF_MESSAGES:
            raise unsupported(f"{where}.{name[:MAX_NAME]}")
