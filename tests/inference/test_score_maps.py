"""Score maps of whole images: windows agree with the whole, edges meet the image's edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tcm_d2.inference.score_maps import compute_score_maps

CELL_PX = 32


class BrightnessModel(nn.Module):
    """Answers with the mean of each cell, one class for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.tcm = nn.Identity()
        self.sizes: list[tuple[int, int]] = []

    def preprocess_images(self, batch):
        from detectron2.structures import ImageList

        self.sizes.append(tuple(batch[0]["image"].shape[1:]))
        return ImageList.from_tensors([batch[0]["image"].float()], CELL_PX)

    def features(self, images: Tensor):
        assert not self.training
        return [], torch.nn.functional.avg_pool2d(images, CELL_PX)


def image_with_bright_cell(rows: int, columns: int, cell: tuple[int, int]) -> Tensor:
    image = torch.zeros(3, rows * CELL_PX, columns * CELL_PX)
    y, x = cell[0] * CELL_PX, cell[1] * CELL_PX
    image[1, y : y + CELL_PX, x : x + CELL_PX] = 9.0
    return image


def test_values_are_probabilities_where_they_belong() -> None:
    maps = compute_score_maps(BrightnessModel(), image_with_bright_cell(4, 6, (2, 3)))
    assert maps.shape == (3, 32, 48)
    # Bilinear, a sixteenth of a cell off the middle: the rest is the neighbours' 0.5.
    assert maps[1, 20, 28] == pytest.approx(0.5 + 0.5 * (15 / 16) ** 2, abs=1e-3)
    assert maps[1].flatten().argmax().item() in range(16 * 48, 24 * 48)
    assert maps[0].unique().tolist() == [0.5]


@pytest.mark.parametrize(("window_px", "overlap_px"), [(64, 32), (96, 32), (128, 0)])
def test_windows_agree_with_the_whole(window_px: int, overlap_px: int) -> None:
    image = torch.rand(3, 200, 330) * 4
    whole = compute_score_maps(BrightnessModel(), image)
    model = BrightnessModel().train()
    parts = compute_score_maps(model, image, window_px=window_px, overlap_px=overlap_px)
    torch.testing.assert_close(parts, whole)
    assert len(model.sizes) > 1 and max(max(size) for size in model.sizes) <= window_px
    assert model.training


def test_padding_is_cut_off() -> None:
    """The last cell is seen in part: its share of the map is as large as of the image."""
    maps = compute_score_maps(BrightnessModel(), torch.full((3, 40, 100), 2.0))
    assert maps.shape == (3, 10, 25)


def test_large_images_get_coarser_maps() -> None:
    maps = compute_score_maps(BrightnessModel(), torch.zeros(3, 32, 32 * 400))
    assert maps.shape[2] == 800


def test_what_cannot_be_done_is_said() -> None:
    model = BrightnessModel()
    with pytest.raises(ValueError, match="expected shape"):
        compute_score_maps(model, torch.zeros(1, 64, 64))
    with pytest.raises(ValueError, match=r"window_px: .* got 64 with an overlap of 64"):
        compute_score_maps(model, torch.zeros(3, 64, 64), window_px=64, overlap_px=64)
    model.tcm = None
    with pytest.raises(ValueError, match="no TCM"):
        compute_score_maps(model, torch.zeros(3, 64, 64))
