"""What a model is worth: sentence vectors and retrieval."""
