"""Cars for `drive.py`: each turns a command into what its motor and its servo need. Write your own in five lines.

Right is positive. If the wheels turn left on a bench test, make `STEERING_US` negative.
"""

from __future__ import annotations

import math
from typing import Protocol

# Pulse in microseconds for wheels straight ahead and a standing motor, and what is added at full steering and at speed.
CENTRE_US, STEERING_US = 1500.0, 400.0
NEUTRAL_US, FORWARD_US_AT_1_M_S = 1500.0, 60.0
# Angle of the wheels at full steering, and the longest and shortest pulse that is ever sent.
FULL_STEERING = math.radians(32)
LIMITS_US = (1000.0, 2000.0)
# Below this speed most motors stall.
CREEP = 0.05


class Car(Protocol):
    """What `drive.py` drives."""

    def drive(self, steering: float, speed: float) -> None:
        """Set the angle of the wheels, radians, and the speed, m/s; 0 stops."""


def pulses(steering: float, speed: float) -> tuple[float, float]:
    """Return the pulses in microseconds of the servo and of the motor's controller (ESC)."""
    low, high = LIMITS_US
    servo = CENTRE_US + STEERING_US * steering / FULL_STEERING
    motor = NEUTRAL_US + (FORWARD_US_AT_1_M_S * speed if speed > CREEP else 0.0)
    return min(max(servo, low), high), min(max(motor, low), high)


class Pca9685Car:
    """A servo on channel 1 and an ESC on channel 0 of a PCA9685 (`pip install adafruit-circuitpython-pca9685`)."""

    def __init__(self) -> None:
        import board
        from adafruit_pca9685 import PCA9685

        self._chip = PCA9685(board.I2C())
        self._chip.frequency = 60

    def drive(self, steering: float, speed: float) -> None:
        """Set both pulses."""
        servo, motor = pulses(steering, speed)
        for channel, pulse in ((1, servo), (0, motor)):
            self._chip.channels[channel].duty_cycle = int(pulse * 60 / 1e6 * 0xFFFF)


class PwmCar:
    """A servo on GPIO 18 and an ESC on GPIO 19: a Pi's hardware PWM (`pip install rpi-hardware-pwm`)."""

    def __init__(self) -> None:
        from rpi_hardware_pwm import HardwarePWM

        self._servo, self._motor = (HardwarePWM(pwm_channel=channel, hz=60) for channel in (0, 1))
        for output in (self._servo, self._motor):
            output.start(CENTRE_US * 60 / 1e4)

    def drive(self, steering: float, speed: float) -> None:
        """Set both pulses."""
        for output, pulse in zip((self._servo, self._motor), pulses(steering, speed), strict=True):
            output.change_duty_cycle(pulse * 60 / 1e4)


class PrintedCar:
    """Prints what it would do, for a test without a car."""

    def drive(self, steering: float, speed: float) -> None:
        """Print both pulses."""
        servo, motor = pulses(steering, speed)
        way = "right" if steering > 0 else "left "
        print(
            f"{abs(math.degrees(steering)):4.1f} deg {way} {speed:4.2f} m/s  servo {servo:4.0f} us, ESC {motor:4.0f} us"
        )


CARS = {"print": PrintedCar, "pca9685": Pca9685Car, "pwm": PwmCar}
