"""A part for donkeycar (https://www.donkeycar.com): camapp steers, donkeycar drives the servo and the motor.

Copy this file and `controller.py` into your car's folder, and add the part in `manage.py`:

    from donkeycar_part import CamappPilot
    V.add(CamappPilot(), outputs=["pilot/angle", "pilot/throttle"], threaded=True, run_condition="run_pilot")

camapp runs beside it and owns the camera: `camapp --model track --drive udp://127.0.0.1:5005`.
"""

from __future__ import annotations

import socket
import time

from controller import Controller, Receiver


class CamappPilot:
    """Receives camapp's lines; its angle and throttle are -1 to 1, right and forward positive, as donkeycar's are.

    Args:
        port: UDP port on this machine.
        controller: arithmetic of the steering.
        throttle_at_1_m_s: throttle that drives your car at 1 m/s; find it with the wheels in the air first.
    """

    def __init__(self, port: int = 5005, controller: Controller | None = None, throttle_at_1_m_s: float = 0.2) -> None:
        self._controller = controller or Controller(top_speed=0.8)
        self._throttle = throttle_at_1_m_s
        self._receiver = Receiver()
        self._speed = 0.0
        self._port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._port.bind(("127.0.0.1", port))
        self._port.settimeout(0.1)
        self.address = self._port.getsockname()
        self.on = True

    def update(self) -> None:
        """Receive lines, in donkeycar's thread for this part."""
        while self.on:
            try:
                line = self._port.recv(200)
            except TimeoutError:
                continue
            self._receiver.take([line], time.monotonic())

    def run_threaded(self) -> tuple[float, float]:
        """Return (angle, throttle); (0, 0) is a stop."""
        command = self._controller.command(self._receiver.lane(time.monotonic()), self._speed)
        self._speed = command.speed
        return command.steering / self._controller.max_steering, min(1.0, command.speed * self._throttle)

    def shutdown(self) -> None:
        """End `update`, and close the port."""
        self.on = False
        time.sleep(0.15)
        self._port.close()
