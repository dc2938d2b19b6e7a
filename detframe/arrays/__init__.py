"""What is done with images and masks as NumPy arrays, for programs that never import torch."""
