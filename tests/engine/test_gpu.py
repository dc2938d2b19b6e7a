"""What only a GPU can show; these tests run where there is one (`pytest -m gpu`)."""

from __future__ import annotations

import pytest
import torch

from detframe.modeling import build_detection_model
from detframe.structures.transfer import move_together
from tests.modeling.tiny import DENSE, EMPTY, FULL, make_images, make_target, tiny_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
CUDA = torch.device("cuda")
DETECTORS = {
    "faster_rcnn": {"MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16},
    "fcos": {**DENSE, "MODEL.RPN.NAME": "FCOS", "MODEL.FCOS.NUM_CONVS": 1},
    "retinanet": {**DENSE, "MODEL.RPN.NAME": "RetinaNet", "MODEL.RETINANET.NUM_CONVS": 1},
}


def made(name):
    torch.manual_seed(0)
    return build_detection_model(tiny_config(DETECTORS[name], "MODEL.DEVICE", "cuda"))


def losses_of(model, amp=None):
    with torch.autocast("cuda", amp or torch.float16, enabled=amp is not None):
        return model.train()(make_images(), [FULL, EMPTY])


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("amp", [torch.float16, torch.bfloat16])
def test_mixed_precision_is_near_the_full_one(name, amp):
    model = made(name)
    full, half = losses_of(model), losses_of(model, amp)
    for key, loss in full.items():
        torch.testing.assert_close(half[key].float(), loss, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", DETECTORS)
def test_two_steps_alike_give_the_same_losses(name):
    first, second = losses_of(made(name)), losses_of(made(name))
    for key, loss in first.items():
        torch.testing.assert_close(second[key], loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
def test_a_step_of_a_dense_detector_waits_for_nothing(name):
    model = made(name)
    sum(losses_of(model).values()).backward()
    before = torch.cuda.get_sync_debug_mode()
    images = [image.pin_memory() for image in make_images()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(model(images, [FULL, EMPTY]).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_host_tensors_arrive_from_pinned_memory():
    tensors = [torch.arange(5), torch.rand(3, 4), torch.tensor([True, False])]
    for there, here in zip(move_together(tensors, CUDA), tensors, strict=True):
        assert there.device.type == "cuda"
        assert torch.equal(there.cpu(), here)


def test_the_dense_part_replays_as_a_cuda_graph():
    model = made("fcos").eval()
    image = torch.rand(1, 3, 128, 128, device=CUDA)
    with torch.no_grad():
        run = torch.cuda.make_graphed_callables(lambda x: tuple(model.backbone(x).values()), (image,))
        for replayed, eager in zip(run(image), model.backbone(image).values(), strict=True):
            torch.testing.assert_close(replayed, eager)


@pytest.mark.parametrize("name", DETECTORS)
def test_an_image_of_2000_boxes_fits_into_four_gigabytes(name):
    corner = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) * 700
    target = make_target(torch.cat([corner, corner + 20], 1).tolist(), [1] * 2000, seed=1)
    model = made(name).train()
    torch.cuda.reset_peak_memory_stats()
    sum(model([torch.zeros(3, 768, 768, dtype=torch.uint8)], [target]).values()).backward()
    assert torch.cuda.max_memory_allocated() < 4 * 2**30


def test_nccl_sums_over_a_process(tmp_path):
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        value = torch.ones(3, device=CUDA)
        torch.distributed.all_reduce(value)
        assert value.tolist() == [1, 1, 1]
    finally:
        torch.distributed.destroy_process_group()
