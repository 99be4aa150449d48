"""Fakes the kms++ Python module for picamera2's DRM preview without a screen, and counts the drawn planes."""

import os

committed = {"images": 0, "overlays": 0}


class _Names(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class PixelFormat(metaclass=_Names):
    pass


class PlaneType(metaclass=_Names):
    pass


class Connector:
    fullname = "HDMI-A-1"

    def connected(self):
        return True


class Card:
    def __init__(self, path):
        self.connectors = [Connector()]


class Plane:
    def __init__(self, kind):
        self.kind = kind

    def set_prop(self, name, value):
        pass


class ResourceManager:
    def __init__(self, card):
        self._planes = iter([Plane("images"), Plane("overlays")])

    def reserve_crtc(self, connector):
        return object()

    def reserve_overlay_plane(self, crtc, format):
        return next(self._planes, None)


class DumbFramebuffer:
    def __init__(self, card, width, height, fourcc):
        self.width, self.height = width, height
        self._fd = os.memfd_create("dumb")
        os.ftruncate(self._fd, width * height * 4)

    def fd(self, plane):
        return self._fd

    def __del__(self):
        os.close(self._fd)


class DmabufFramebuffer:
    def __init__(self, *layout):
        pass


class AtomicReq:
    def __init__(self, card):
        self._planes = []

    def add_plane(self, plane, framebuffer, crtc, source, target):
        self._planes.append(plane.kind)

    def commit_sync(self):
        for kind in self._planes:
            committed[kind] += 1
