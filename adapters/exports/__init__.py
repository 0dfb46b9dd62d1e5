"""Adapters that leave: as they are stored, or merged into their base model.

`zipped` lays out archives that are never built, `stored` is the adapter's own. `planning` says from headers alone how
each tensor of the merged model is made, `merge_child` makes them with `arithmetic`, `beside` writes what a model folder
has beside its weights, `merging` is the job around all that, and `shelf` the folder `EXPORTS_DIR`.
"""
