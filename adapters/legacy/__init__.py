"""Carrying the database of the older system (one table `lora_models`) forward and back."""
