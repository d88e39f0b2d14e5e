"""The benchmark of the detector: precision by hand, boxes in squares, the published groups, losses and gradients."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.pages import shown
from bench.yolov5 import __main__ as command
from bench.yolov5 import coco, detector, page
from bench.yolov5.dense import started
from bench.yolov5.groups import found_groups, published_groups
from bench.yolov5.precision import average_precision, corners, detections, iou, mean_precision, suppressed
from pagcp_ir.analyse import analyse
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace

ROOT = Path(__file__).parents[2]
THERE = importlib.util.find_spec("yolov5") is not None


def box(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def test_iou_of_halves_and_of_nothing():
    square, half, far = box(0, 0, 2, 2), box(0, 0, 2, 1), box(5, 5, 6, 6)
    assert iou(square, torch.cat((square, half, far))).tolist() == [[1.0, 0.5, 0.0]]


def test_a_double_goes_and_the_better_one_stays():
    boxes = corners(torch.tensor([[5.0, 5, 4, 4], [5.2, 5, 4, 4], [20.0, 20, 4, 4]]))
    assert suppressed(boxes, torch.tensor([0.5, 0.9, 0.1])).tolist() == [1, 2]


def test_doubles_of_another_class_stay():
    cells = torch.zeros(3, 7)
    cells[:, :4] = torch.tensor([[5.0, 5, 4, 4], [5.1, 5, 4, 4], [5.0, 5, 4, 4]])
    cells[:, 4] = torch.tensor([1.0, 0.9, 0.0])
    cells[0, 5], cells[0, 6], cells[1, 5] = 0.8, 0.5, 0.8
    found = detections(cells)
    assert found[:, 5].tolist() == [0.0, 1.0]
    torch.testing.assert_close(found[:, 4], torch.tensor([0.8, 0.5]))
    assert found[0, :4].tolist() == [3.0, 3.0, 7.0, 7.0]


def test_the_area_below_the_best_precision_beyond():
    # right, wrong, right of 4 boxes: recalls 1/4 and 2/4 at precisions 1 and 2/3
    assert average_precision(torch.tensor([True, False, True]), 4) == pytest.approx((1 + 2 / 3) / 4)
    assert average_precision(torch.tensor([False, True]), 1) == pytest.approx(1 / 2)
    assert average_precision(torch.zeros(0, dtype=torch.bool), 3) == 0.0


def test_a_box_is_found_once_and_only_in_its_image_and_class():
    wanted = [torch.tensor([[0.0, 0, 0, 4, 4], [1.0, 10, 10, 14, 14]]), torch.zeros(0, 5)]
    first = torch.tensor([[0.0, 0, 4, 4, 0.9, 0], [0.0, 0, 4, 4, 0.8, 0], [10.0, 10, 14, 14, 0.7, 0]])
    second = torch.tensor([[10.0, 10, 14, 14, 0.9, 1]])
    assert mean_precision([first, second], wanted) == pytest.approx(0.5)  # all of class 0, nothing of class 1
    assert mean_precision([first[:1], second[:0]], wanted) == pytest.approx(0.5)
    late = torch.tensor([[10.0, 10, 14, 14, 0.5, 1]])  # behind a wrong one of another image
    assert mean_precision([torch.cat((first[:1], late)), second], wanted) == pytest.approx(0.75)


def test_a_wide_image_lies_in_the_middle_of_the_square():
    Image = pytest.importorskip("PIL.Image", reason="the benchmark brings Pillow")

    stream = io.BytesIO()
    Image.new("RGB", (400, 200), (255, 0, 0)).save(stream, "JPEG")
    pixels, scale, shift = coco.squared(stream.getvalue())
    assert pixels.shape == (3, 320, 320)
    assert pixels[:, 0, 0].tolist() == [coco.GREY] * 3
    assert pixels[0, 160, 160] > 240
    whole = torch.tensor([0.0, 1.0])
    assert (whole * scale[0] + shift[0]).tolist() == [0.0, 1.0]
    assert (whole * scale[1] + shift[1]).tolist() == [0.25, 0.75]
    assert (pixels[1] == coco.GREY).all(1).sum() >= 150


def test_a_mirrored_box_covers_the_mirrored_pixels_and_its_image_has_a_number():
    image = torch.zeros(3, 8, 8)
    image[:, :, :2] = 1
    flipped, boxes = coco.mirrored(image, torch.tensor([[3.0, 0.125, 0.5, 0.25, 1.0]]))
    assert flipped[:, :, 6:].min() == 1
    assert boxes.tolist() == [[3.0, 0.875, 0.5, 0.25, 1.0]]
    pixels, target = coco.collate([(image, boxes), (flipped, boxes[:0]), (flipped, boxes)])
    assert pixels.shape == (3, 3, 8, 8)
    assert target.tolist() == [[0.0, 3.0, 0.875, 0.5, 0.25, 1.0], [2.0, 3.0, 0.875, 0.5, 0.25, 1.0]]


def test_boxes_and_objectness_of_the_old_last_layer_stay():
    fresh = {"a": torch.zeros(2), "b": torch.full((3 * 85, 1), -1.0)}
    given = {"a": torch.ones(2, dtype=torch.float16), "b": torch.arange(21, dtype=torch.float16)[:, None]}
    made = started(fresh, given)
    assert made["a"].tolist() == [1.0, 1.0]
    rows = made["b"].view(3, 85)
    assert rows[:, :5].tolist() == [[0, 1, 2, 3, 4], [7, 8, 9, 10, 11], [14, 15, 16, 17, 18]]
    assert (rows[:, 5:] == -1).all()
    assert made["b"].dtype == torch.float32


class Conv(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(size, size, 1, bias=False), nn.BatchNorm2d(size)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.shortcut = Conv(4), Conv(4), shortcut

    def forward(self, x):
        return x + self.cv2(self.cv1(x)) if self.shortcut else self.cv2(self.cv1(x))


class Block(nn.Module):
    def __init__(self, shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = Conv(4), Conv(4), nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU())
        self.m = nn.Sequential(*(Bottleneck(shortcut) for _ in range(2)))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class Detector(nn.Module):
    """25 layers in a row, of which those with shortcuts are named."""

    def __init__(self, shortcuts: tuple[int, ...]) -> None:
        super().__init__()
        blocks = [Block(i in shortcuts) if i in (2, 4, 6, 8, 13) else Conv(4) for i in range(24)]
        self.model = nn.Sequential(*blocks, nn.Sequential(nn.Conv2d(4, 6, 1)))

    def forward(self, x):
        return self.model(x)


def groups_of(model: nn.Module) -> set[frozenset[str]]:
    return found_groups(analyse(trace(model.eval(), [TensorSpec((1, 4, 8, 8))])))


def test_groups_are_those_of_the_published_rule():
    model = Detector((2, 4, 6, 8))
    assert groups_of(model) == published_groups(model)
    coupled = [group for group in published_groups(model) if len(group) > 1]
    assert len(coupled) == 4
    assert frozenset({"model.2.cv1.conv", "model.2.m.0.cv2.conv", "model.2.m.1.cv2.conv"}) in coupled
    assert groups_of(Detector((2, 4, 6))) != published_groups(model)


@pytest.mark.skipif(not THERE, reason="yolov5 is not installed here: make yolov5 makes its environment")
def test_the_detectors_groups_and_the_gradients_of_its_losses():
    model = detector.build()
    assert found_groups(analyse(trace(model, [TensorSpec((1, 3, 320, 320))]))) == published_groups(model)
    boxes = torch.tensor([[0.0, 7, 0.5, 0.5, 0.4, 0.3], [1.0, 3, 0.3, 0.6, 0.1, 0.2]])
    pixels = torch.rand(2, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = detector.losses(model(pixels), boxes)
    assert list(plain) == ["box", "objectness", "class"]
    moved = detector.losses(model(pixels), boxes)
    for task, loss in moved.items():
        torch.testing.assert_close(loss.detach(), plain[task])
    slope = torch.autograd.grad(moved["class"], model.model[-1].m[0].weight, allow_unused=True)[0]
    by_output = slope.view(3, 85, -1).abs().sum((0, 2))
    assert by_output[:5].max() == 0
    assert by_output[5:].max() > 0


def run(data: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PAGCP_DATA": str(data)}
    return subprocess.run(
        [sys.executable, "-m", "bench.yolov5"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_without_the_data_one_line_and_exit_2(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "PAGCP_DATA" in done.stderr


@pytest.mark.skipif(THERE, reason="yolov5 is installed here")
def test_without_the_libraries_one_line_and_exit_2(tmp_path):
    for name in ("coco256_boxes.npz", "yolov5n_2class_fp16.safetensors"):
        (tmp_path / name).touch()
    done = run(tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "make yolov5" in done.stderr


def arms() -> dict:
    losses = {"box": 0.05, "class": 0.02}
    row = {"kept": {"macs": 0.5, "params": 0.4}, "total": 30.0, "cut": losses, "tuned": losses, "ms": 5.0}
    row |= {"map50": {"train": 0.5, "val": 0.25}, "of_dense_time": 0.6}
    worse = {**row, "tuned": {"box": 0.06, "class": 0.02}}
    return {"dense": {**row, "kept": {"macs": 1.0, "params": 1.0}}, "published": row, "ours": worse}


def test_a_loss_that_is_higher_is_worse_and_told():
    rows = arms()
    assert command.better(rows) == {"ours": {"box": False, "class": True}}
    told = command.table({"arms": rows, "better": command.better(rows)})
    assert "ours: worse than published in box" in told


def test_the_page_shows_what_is_stored():
    stored = json.loads((ROOT / "bench" / "results" / "yolov5.json").read_text(encoding="utf-8"))
    text = page.PAGE.read_text(encoding="utf-8")
    assert shown(text, "figures", page.figures(stored), fenced=False) == text
    assert shown(text, "figures", page.figures({**stored, "arms": arms()}), fenced=False) != text
