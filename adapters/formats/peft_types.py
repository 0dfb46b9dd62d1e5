"""What PEFT 0.21 can do with adapters of its other types. Written by `adapters/tests/peft_types.py`."""

# convert_to_lora takes them: their layers say so (`supports_lora_conversion`).
CONVERTIBLE = {
    "C3A",
    "DELORA",
    "FOURIERFT",
    "GRALORA",
    "LOHA",
    "LOKR",
    "MISS",
    "PSOFT",
    "RANDLORA",
    "TINYLORA",
    "UNILORA",
    "VBLORA",
    "VERA",
    "WAVEFT",
}
# Soft prompts, which change no layer.
PROMPTS = {
    "CARTRIDGE",
    "CPT",
    "MULTITASK_PROMPT_TUNING",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
}
# merge_and_unload takes them: their layers can be merged.
MERGEABLE = {
    "ADALORA",
    "ADAMSS",
    "BEFT",
    "BOFT",
    "DEFT",
    "FROD",
    "GLORA",
    "HIRA",
    "HRA",
    "IA3",
    "LILY",
    "LN_TUNING",
    "OFT",
    "OSF",
    "PEANUT",
    "PVERA",
    "ROAD",
    "SHADOW",
    "SHIRA",
    "SUPERTUNING",
    "TRAINABLE_TOKENS",
}
