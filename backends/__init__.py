"""Code generators, one folder each; found through entry points, see `tncompile.emit.backend`."""
