"""Fine-tuning tasks, a module each; the module's name is the task's name in a config."""
