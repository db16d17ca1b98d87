"""Real models: chosen layers generated, started, fitted, grown, pruned, quantised, exported."""
