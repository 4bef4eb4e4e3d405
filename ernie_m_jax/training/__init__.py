"""Training: the state, its optimizer and its place on the devices, the compiled step, and the loop around it."""
