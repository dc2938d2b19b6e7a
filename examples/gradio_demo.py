"""A page on which people drop a picture and see what a detector finds.

pip install gradio
python examples/gradio_demo.py model_best.pth      # or an exported file, a folder, a repository on the hub
"""

import sys

import gradio

from detframe import Detector
from detframe.visualization import draw_instances


def build(weights):
    """The page of a detector: a picture and a score in, the drawn picture out."""
    detector = Detector.from_pretrained(weights)

    def detect(image, score):
        (found,) = detector.predict(image, score_threshold=score)
        table = found.to_pandas()[["class_name", "score", "x1", "y1", "x2", "y2"]]
        numbers = table.columns[1:]
        return draw_instances(image, found, detector.class_names), table.astype(dict.fromkeys(numbers, float)).round(2)

    picture, score = gradio.Image(label="Picture"), gradio.Slider(0, 1, 0.5, label="Lowest score")
    outputs = [gradio.Image(label="Found"), gradio.Dataframe(label="Objects")]
    return gradio.Interface(detect, [picture, score], outputs, title="detframe", flagging_mode="never")


if __name__ == "__main__":
    build(sys.argv[1]).launch()
