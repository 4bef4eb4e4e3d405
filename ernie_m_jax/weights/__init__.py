"""Weights of any framework as named tensors; knows no model, and executes nothing of what it reads."""
