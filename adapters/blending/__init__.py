"""A blend saved as an adapter of its own: several stored copies, each with a weight, written as one PEFT folder.

`planning` reads the members and says what is to be written, `write_child` writes it in a process of its own,
`saving` puts the folder where finished uploads lie, so that a scan finds it and it is proven as any other.
"""
