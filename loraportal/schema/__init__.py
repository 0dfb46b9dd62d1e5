"""The OpenAPI description of the API: what each call takes and answers, with examples."""
