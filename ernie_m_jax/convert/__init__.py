"""Released weights in and out: other formats <-> this project's parameters.

`load` and `save` here are `ernie_m_jax.load` and `ernie_m_jax.save`; `python -m ernie_m_jax.convert` is the command.
"""
