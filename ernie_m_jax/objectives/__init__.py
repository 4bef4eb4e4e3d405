"""Pre-training objectives, a module each; the module's name is the objective's name in a config."""
