"""What lies in a folder of `Detector.save_pretrained`, by name."""

WEIGHTS, CONFIG, ABOUT, CARD = "model.safetensors", "config.yaml", "config.json", "README.md"
LIBRARY = "detframe"  # as config.json and the model card call it
MARK = "<!-- written by detframe; without this line the file is yours, and is not written again -->"
