"""Convolutional layers of many runs side by side. Values are (R, C H W, B): the run first, the sample last.

With the sample last, a window of an image is a strided copy of whole rows of samples. The first convolution sees the same
images in all runs and is one product with all their windows. A later one copies the columns of the windows only, k times its
input, and sums over the k rows of the kernel: each meets the copy shifted by one row of the image, which is a view.
"""

from math import prod

import torch
from torch import Tensor

from benchmark.core.layers import Conv, MaxPool, where_positive
from benchmark.core.problem import Problem
from benchmark.retraining.dense import Parts, Rows, spread
from benchmark.retraining.updaters import L2, adding, each_run_whole, updater


class Buffer:
    """Memory that is written anew at every step: fresh memory of this size would cost a page fault for every 4 KB."""

    def __init__(self) -> None:
        self.flat = torch.empty(0)

    def of(self, *shape: int, like: Tensor) -> Tensor:
        """The buffer in this shape, its content undefined."""
        size = prod(shape)
        if self.flat.numel() < size:
            self.flat = like.new_empty(size)
        return self.flat[:size].view(shape)


def padded(images: Tensor, border: int) -> Tensor:
    """Images (..., H, W, B) in a border of zeros."""
    return torch.nn.functional.pad(images, (0, 0, border, border, border, border)) if border else images


class FirstConv:
    """The first layer of R runs on shared images; weight and bias together are (R, filters, C k k + 1).

    With `corners` its pixels come in the order of a maximum over 2 x 2 pixels: all upper left ones, all upper right ones, ...
    """

    def __init__(self, problem: Problem, layer: Conv, rows: Parts, runs: int, corners: bool) -> None:
        self.problem, self.layer, self.runs, self.corners = problem, layer, runs, corners
        joined = [torch.cat([weight.flatten(2), bias[:, :, None]], dim=2) for weight, bias in rows]
        self.weight = updater(problem, [spread(row, runs) for row in joined], each_run_whole)
        self.buffers = Buffer(), Buffer()

    def forward(self, split: str, rows: Rows) -> Tensor:
        """Outputs (R, features, B) for some samples of the split, train or query."""
        self.windows = self._windows(getattr(self.problem, split).inputs[rows])
        weight = self.weight.value.flatten(0, 1)
        out = self.buffers[0].of(len(weight), self.windows.shape[1], like=weight)
        return torch.mm(weight, self.windows, out=out).view(self.runs, self.layer.features, -1)

    def _windows(self, inputs: Tensor) -> Tensor:
        """Every pixel of every window, and a 1 for the bias: (B, d) -> (C k k + 1, H' W' B)."""
        _, height, width = self.layer.out
        images = padded(inputs.T.reshape(*self.layer.image, -1), self.layer.padding)
        pixels = images.unfold(1, height, 1).unfold(2, width, 1)  # (C, k, k, B, H', W')
        if self.corners:
            squares = pixels.view(*pixels.shape[:4], height // 2, 2, width // 2, 2)
            pixels = squares.permute(0, 1, 2, 5, 7, 4, 6, 3)
        else:
            pixels = pixels.permute(0, 1, 2, 4, 5, 3)
        found = self.buffers[1].of(self.weight.value.shape[2], height * width * len(inputs), like=images)
        found[:-1].view(pixels.shape).copy_(pixels)
        found[-1] = 1
        return found

    def backward(self, t: int, _rows: Tensor, slope: Tensor, l2: L2 | None) -> None:
        """Move by the gradient of outputs whose slope is (R, features, B)."""
        slope, turned = slope.reshape(self.runs * self.layer.filters, -1), self.windows.T
        self.weight.update(t, lambda out, beta, alpha: out.flatten(0, 1).addmm_(slope, turned, beta=beta, alpha=alpha), l2)

    def parameters(self) -> list[Tensor]:
        """Weight and bias of each run, in the order of the flat vector."""
        return [self.weight.value[..., :-1], self.weight.value[..., -1]]


class ConvRuns:
    """A later convolution of R runs: weight (k, R, filters, C k), the rows of the kernel first, and bias (R, filters, 1)."""

    def __init__(self, problem: Problem, layer: Conv, rows: Parts, runs: int) -> None:
        self.layer, self.runs = layer, runs
        tall = [weight.permute(3, 0, 1, 2, 4).flatten(3) for weight, _ in rows]  # (k, 1 or R, filters, C k)
        self.weight = updater(problem, [spread(w, runs, dim=1) for w in tall], lambda value: value.flatten(2))
        self.bias = updater(problem, [spread(bias[:, :, None], runs) for _, bias in rows], each_run_whole)
        self.buffers = Buffer(), Buffer(), Buffer(), Buffer()

    def forward(self, values: Tensor) -> Tensor:
        """(R, features before, B) -> (R, features, B)"""
        self.columns = self._columns(values)  # (R, C k, H W' B) of the padded images
        pixels = prod(self.layer.out[1:]) * values.shape[2]
        out = self.buffers[0].of(self.runs, self.layer.filters, pixels, like=values).copy_(self.bias.value)
        for weight, shifted in zip(self.weight.value, self._shifted(self.columns), strict=True):
            out.baddbmm_(weight, shifted)
        return out.view(self.runs, self.layer.features, -1)

    def _columns(self, values: Tensor) -> Tensor:
        width = self.layer.out[2]
        images = padded(values.reshape(self.runs, *self.layer.image, -1), self.layer.padding)
        shifted = images.unfold(3, width, 1).permute(0, 1, 3, 2, 5, 4)  # (R, C, k, H, W', B)
        columns = self.buffers[1].of(*shifted.shape, like=images).copy_(shifted)
        return columns.view(self.runs, self.layer.image[0] * self.layer.kernel, -1)

    def _shifted(self, columns: Tensor) -> list[Tensor]:
        """For each row of the kernel the part of the columns (R, C k, H W' B) that it meets, (R, C k, H' W' B)."""
        row = columns.shape[2] // self.layer.padded[1]
        pixels = row * self.layer.out[1]
        return [columns[:, :, u * row : u * row + pixels] for u in range(self.layer.kernel)]

    def backward(self, t: int, slope: Tensor, l2: L2 | None) -> Tensor:
        """Move by the gradient of outputs whose slope is (R, features, B); returns the slope of the inputs before it."""
        slope = slope.reshape(self.runs, self.layer.filters, -1)
        before = self._before(slope)
        met = [shifted.transpose(1, 2) for shifted in self._shifted(self.columns)]

        def product(out: Tensor, beta: float, alpha: float) -> None:
            for part, turned in zip(out, met, strict=True):
                part.baddbmm_(slope, turned, beta=beta, alpha=alpha)

        self.weight.update(t, product, l2)
        self.bias.update(t, adding(slope.sum(2, keepdim=True)), l2)
        return before

    def _before(self, slope: Tensor) -> Tensor:
        columns = self.buffers[2].of(*self.columns.shape, like=slope).zero_()
        for weight, shifted in zip(self.weight.value, self._shifted(columns), strict=True):
            shifted.baddbmm_(weight.transpose(1, 2), slope)
        channels, height, width = self.layer.padded
        wide = columns.view(self.runs, channels, self.layer.kernel, height, self.layer.out[2], -1)
        images = self.buffers[3].of(self.runs, channels, height, width, wide.shape[-1], like=slope).zero_()
        for v in range(self.layer.kernel):
            images[:, :, :, v : v + self.layer.out[2]] += wide[:, :, v]
        border = self.layer.padding
        inner = images[:, :, border : height - border, border : width - border]
        return inner.reshape(self.runs, -1, wide.shape[-1])

    def parameters(self) -> list[Tensor]:
        """Weight and bias of each run, in the order of the flat vector."""
        side, channels = self.layer.kernel, self.layer.image[0]
        tall = self.weight.value.view(side, self.runs, self.layer.filters, channels, side)
        return [tall.permute(1, 2, 3, 0, 4), self.bias.value]


class MaxPoolRuns:
    """The largest of each 2 x 2 pixels in R runs; `apart` where its input has the four corners of all squares one by one."""

    def __init__(self, _problem: Problem, layer: MaxPool, _rows: Parts, runs: int) -> None:
        self.layer, self.runs, self.apart = layer, runs, False
        self.buffer = Buffer()

    def forward(self, values: Tensor) -> Tensor:
        """(R, features before, B) -> (R, features, B)"""
        self.corners = self._corners(values)
        self.upper, self.lower = (torch.maximum(*self.corners[i : i + 2]) for i in (0, 2))
        return torch.maximum(self.upper, self.lower).view(self.runs, self.layer.features, -1)

    def _corners(self, values: Tensor) -> list[Tensor]:
        """The four pixels of each square, row by row, as views (R C, H/2, W/2, B)."""
        _, height, width = self.layer.out
        images = self.runs * self.layer.image[0]
        if self.apart:
            return list(values.view(images, 4, height, width, -1).unbind(1))
        squares = values.view(images, height, 2, width, 2, -1)
        return [squares[:, :, i, :, j] for i in (0, 1) for j in (0, 1)]

    def backward(self, _t: int, slope: Tensor, _l2: L2 | None) -> Tensor:
        """The slope of the inputs: that of a square goes to the first of its largest pixels."""
        slope = slope.view_as(self.upper)
        before = self.buffer.of(self.runs, self.layer.features * 4, slope.shape[-1], like=slope)
        lower = where_positive(slope, self.lower - self.upper)
        pixels = self._corners(before)
        for half, (left, right), (to_left, to_right) in (
            (slope - lower, self.corners[:2], pixels[:2]),
            (lower, self.corners[2:], pixels[2:]),
        ):
            torch.ops.aten.threshold_backward.grad_input(half, right - left, 0, grad_input=to_right)
            torch.sub(half, to_right, out=to_left)
        return before

    def parameters(self) -> list[Tensor]:
        """None."""
        return []
