"""Adapters that arrive by browser or API: announced, sent in pieces, unpacked, moved below the root `UPLOADS_DIR`.

`naming` says what may arrive, `arriving` keeps what is under way on disk, `unpacking` reads archives in a child
process, `finishing` moves what is whole to its place, where a scan finds it as it finds any other adapter.
"""
