"""Builds the track net: convolutions with ReLU that describe for each small cell of an image how a line crosses it."""

from __future__ import annotations

from engine.graph import Graph
from engine.nets.layers import NetBuilder

# Dilations of the residual layers on the coarsest grid: together they cover most of the image, and neighbours share no
# factor, so no place is left out. 5 divides the grid into whole tiles, as 1 does.
REACH = (1, 2, 5, 2, 1)
# Cells on each side that the head predicts for each place of the coarsest grid.
SUBCELLS = 2
# Values of a cell: presence; the line's nearest point, x and y; its direction as cos and sin of twice the angle.
FIELDS = 5


def track() -> Graph:
    """Build the net 3x160x160 -> (20, 20, 20): `SUBCELLS` x `SUBCELLS` x `FIELDS` numbers a place, rows of cells first.

    107 million multiply-adds. The image is square: far lines are flat, and the rows separate them.
    """
    net = NetBuilder("track", (3, 160, 160))
    x = net.conv_norm_relu(net.input, "stem", 3, 16, stride=2)
    x = net.conv_norm_relu(x, "second", 16, 32, stride=2)
    x = net.add(x, net.conv_norm_relu(x, "third", 32, 32))
    x = net.conv_norm_relu(x, "fourth", 32, 64, stride=2)
    for i, dilation in enumerate(REACH, start=1):
        x = net.add(x, net.conv_norm_relu(x, f"wide{i}", 64, 64, dilation=dilation))
    outputs = SUBCELLS * SUBCELLS * FIELDS
    return net.graph(net.conv(x, "head", 64, outputs, 1), (outputs, 20, 20))
