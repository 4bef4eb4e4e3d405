"""Evaluation of a model: sentence vectors and retrieval."""
