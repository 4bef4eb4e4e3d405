"""What a step has to compute, by a formula: sizes of the model and of a row in, floating point operations out.

Not what a compiler counts: XLA counts the body of a loop once, and what it computes again counts there.
"""

from ernie_m_jax.config import ModelConfig


def per_token(model: ModelConfig, length: int, predicted: float, written: float = 0.0) -> tuple[float, float]:
    """Floating point operations of training per token of a full row, and of writing words before, without gradient.

    Training is three times the forward pass: the dense maps, attention, and the words' head where words are predicted.
    Embeddings, norms, dropout, a task's own small head and the optimizer count nothing; work done twice counts once.
    All layers count for all tokens, as the architecture has them, although of the last the maps after attention are
    computed for the predicted tokens alone (`ErnieM.encode`): base does 3.7 % less than this at 512 and 15 %.
    Writing is one forward pass, with the head where words are written.

    Args:
      model: the sizes.
      length: keys that a token may attend to, on average; a row's length if a row is one example.
      predicted: share of a row's positions whose logits over the vocabulary are needed.
      written: share of a row's positions at which a pass without gradient writes a word; 0: there is no such pass.
    """
    width = model.hidden_size
    body = 6 * model.num_layers * (4 * width**2 + 2 * width * model.ffn_size) + 12 * model.num_layers * length * width
    word = 6 * (width**2 + width * model.vocab_size)
    return body + predicted * word, (body + written * word) / 3 if written else 0.0
