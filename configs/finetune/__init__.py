"""Fine-tuning: a config per task of the paper."""
