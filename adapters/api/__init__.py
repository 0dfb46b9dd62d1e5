"""The registry over HTTP: `/api/lora/...`."""
