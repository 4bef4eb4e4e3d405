"""Many runs as one: commands above `python -m ernie_m_jax.main`, each run in a process of its own."""
