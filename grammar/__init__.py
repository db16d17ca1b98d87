"""The grammar of the language and the standard topologies: data, no code."""
