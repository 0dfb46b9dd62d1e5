"""Adapters imported by name from a hub that speaks Hugging Face's calls, for operators, where HUB_IMPORT is on.

`names` says what a repository and a revision may be called, `hosts` where a connection may lead, `reaching` makes it,
`client` asks the hub, `choosing` says which files are taken, `importing` is the job: what arrives lies where an upload
lies while it arrives, and goes the same way.
"""
