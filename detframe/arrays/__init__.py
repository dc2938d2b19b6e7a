"""What is done with images, masks and predictions as NumPy arrays, for programs that never import torch."""
