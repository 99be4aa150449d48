"""Files that Ultralytics and torchvision export, with random weights, beside their own post-processing."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from camapp.core.models import load_model
from camapp.core.settings import load_settings
from engine import UnsupportedOperator
from tests.camapp.tasks.heads import published
from tests.camapp.tasks.heads.comparison import Found, compare, compared, mask_overlap, photos, reference_run, task_of

pytestmark = pytest.mark.slow
SIDE = 160


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return torch


@pytest.fixture
def export(torch, tmp_path, monkeypatch):
    """Return a function that exports a net of Ultralytics by name; some of its cells find objects."""
    ultralytics = pytest.importorskip("ultralytics")
    monkeypatch.chdir(tmp_path)

    def make(name, **options):
        torch.manual_seed(3)
        model = ultralytics.YOLO(f"{name}.yaml", verbose=False)
        calibrate(torch, model.model)
        path = model.export(format="onnx", imgsz=SIDE, opset=12, simplify=False, verbose=False, **options)
        return Path(path).resolve()

    return make


def pictures(torch, side):
    return torch.stack(
        [
            torch.from_numpy(cv2.resize(image.rgb(), (side, side)).transpose(2, 0, 1) / np.float32(255))
            for image in photos()
        ]
    )


def calibrate(torch, net):
    """Give each normalisation the statistics of photographs, and the class logits a mean of -3 and a spread of 1.5."""
    batch = pictures(torch, SIDE)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.9
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(batch)
    net.eval()
    heads = [getattr(net.model[-1], name, None) or [] for name in ("cv3", "one2one_cv3")]
    for branch in (branch for head in heads for branch in head):
        layer, seen = branch[-1], []
        handle = layer.register_forward_hook(lambda layer, inputs, output, seen=seen: seen.append(output))
        with torch.no_grad():
            net(batch)
            handle.remove()
            if not seen:
                continue
            spread = seen[0].std(dim=(0, 2, 3)) + 1e-6
            middle = seen[0].mean(dim=(0, 2, 3))
            layer.weight *= (1.5 / spread)[:, None, None, None]
            layer.bias.copy_(-3 + (layer.bias - middle) * 1.5 / spread)


def suppressed(outputs, classes, **options):
    """Ultralytics' own suppression of the outputs of ONNX Runtime.

    It moves the boxes of each class by 7680 pixels, which would cost float32 some hundredths of a pixel.
    """
    import torch
    from ultralytics.utils.nms import non_max_suppression

    tensor = torch.from_numpy(outputs[0]).double()
    return non_max_suppression(tensor, 0.25, 0.7, nc=classes, max_det=300, **options)[0].numpy()


def placed(rows, fit, more=lambda row: {}):
    found = [Found(published.in_image(row[:4], fit), str(int(row[5])), float(row[4]), **more(row)) for row in rows]
    return [one for one in found if one.box[2] > one.box[0] and one.box[3] > one.box[1]]


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolov3-tiny"])
def test_detectors(export, name):
    path = export(name)
    assert task_of(path).head.name == "yolov8"
    compare(path, lambda outputs, fit: placed(suppressed(outputs, 80), fit), least=10)


def test_a_net_that_suppresses_overlaps_itself(export):
    path = export("yolov10n", end2end=True)
    assert task_of(path).head.name == "yolov10"

    def reference(outputs, fit):
        return placed(outputs[0][0][outputs[0][0][:, 4] > 0.25], fit)

    compare(path, reference, least=10)


def test_masks(export):
    import torch
    from ultralytics.utils.ops import process_mask

    path = export("yolov8n-seg")

    def reference(outputs, fit):
        rows = suppressed(outputs, 80)
        numbers, prototypes = torch.from_numpy(rows).float(), torch.from_numpy(outputs[1][0])
        masks = process_mask(prototypes, numbers[:, 6:], numbers[:, :4].clone(), (SIDE, SIDE), upsample=True)
        return placed(rows, fit, lambda row: {"mask": masks[int((rows == row).all(axis=1).argmax())].numpy() > 0})

    assert task_of(path).head.name == "yolov8-seg"
    assert mask_overlap(compared(path, reference), (SIDE, SIDE)) > 0.97


def test_poses(export):
    path = export("yolo11n-pose")

    def points(row, fit):
        marks = row[6:].reshape(17, 3).tolist()
        return {"points": [(*published.in_image(mark[:2], fit), mark[2]) for mark in marks]}

    assert task_of(path).head.name == "yolov8-pose"
    compare(path, lambda outputs, fit: placed(suppressed(outputs, 80), fit, lambda row: points(row, fit)), least=5)


def test_rotated_boxes(export):
    from ultralytics.utils.ops import regularize_rboxes

    path = export("yolov8n-obb")

    def reference(outputs, fit):
        import torch

        rows = suppressed(outputs, 80, rotated=True)
        turned = regularize_rboxes(torch.from_numpy(np.concatenate([rows[:, :4], rows[:, -1:]], axis=1))).numpy()
        (x0, y0, x1, y1), (u0, v0, u1, v1) = fit.source, fit.target
        gains, found = ((u1 - u0) / (x1 - x0), (v1 - v0) / (y1 - y0)), []
        for row, (x, y, w, h, angle) in zip(rows, turned.tolist(), strict=True):
            edges = x - w / 2, y - h / 2, x + w / 2, y + h / 2
            box = [(edge - (u0, v0)[at % 2]) / gains[at % 2] + (x0, y0)[at % 2] for at, edge in enumerate(edges)]
            found.append(Found(box, str(int(row[5])), float(row[4]), angle=np.degrees(angle)))
        return found

    assert task_of(path).head.name == "yolov8-obb"
    try:
        compare(path, reference, least=10)
    except UnsupportedOperator as error:
        pytest.skip(str(error))


def test_classifiers(export, torch):
    path = export("yolov8n-cls")
    settings = load_settings({"model": str(path)}, environment={})
    assert load_model(settings).card.task == "classify"
    outputs, prediction, _ = reference_run(path, photos()[0])
    assert prediction.score == pytest.approx(float(outputs[0].max()), abs=1e-5)
    assert prediction.label == str(int(outputs[0].argmax()))


def test_torchvisions_ssdlite(torch, tmp_path):
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    net = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()

    class Raw(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, images):
            made = self.net.head(list(self.net.backbone(images).values()))
            return made["bbox_regression"], made["cls_logits"]

    batch = (pictures(torch, 320) - 0.5) / 0.5
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.9
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net.head(list(net.backbone(batch).values()))
        net.eval()
        spread = Raw()(batch)[1].std()
        for level in net.head.classification_head.module_list:
            level[-1].weight *= 3 / spread
    path = tmp_path / "ssdlite.onnx"
    torch.onnx.export(Raw(), batch[:1], str(path), opset_version=17, dynamo=False, output_names=["boxes", "scores"])

    def reference(outputs, fit):
        import torch as own

        (x0, y0, x1, y1), _ = fit.source, fit.target
        features = [own.zeros(1, 1, side, side) for side in (20, 10, 5, 3, 2, 1)]
        sizes = [(320, 320)]
        anchors = net.anchor_generator(
            torchvision.models.detection.image_list.ImageList(own.zeros(1, 3, 320, 320), sizes), features
        )
        heads = {"bbox_regression": own.from_numpy(outputs[0]), "cls_logits": own.from_numpy(outputs[1])}
        net.score_thresh, net.detections_per_img, net.topk_candidates = 0.3, 300, 3000
        (found,) = net.postprocess_detections(heads, anchors, sizes)
        scale = np.array([x1 - x0, y1 - y0] * 2) / 320
        names = task_of(path).card.labels
        return [
            Found((box * scale + (x0, y0, x0, y0)).tolist(), names[int(label) - 1], float(score))
            for box, label, score in zip(
                found["boxes"].numpy(), found["labels"].numpy(), found["scores"].numpy(), strict=True
            )
            if box[2] > box[0] and box[3] > box[1]
        ]

    assert task_of(path).head.name == "ssdlite"
    compare(path, reference, least=10)
