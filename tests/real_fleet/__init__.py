"""The gateway's contracts against real vLLM replicas behind vLLM's router: `make test-fleet`."""
