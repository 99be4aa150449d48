"""Jobs for workers under test, named as 'tests.camapp.worker_jobs:echo'."""

import os
import time


def echo(model, options):
    """Reply with the message, repeated `options['times']` times, in one piece; some messages make the worker fail."""

    def job(message):
        if b"poison" in message:
            os._exit(9)
        if b"raise" in message:
            raise ValueError("as requested")
        if b"hang" in message:
            time.sleep(60)
        time.sleep(options.get("seconds", 0))
        for _ in range(options.get("empty_pieces", 0)):
            time.sleep(0.2)
            yield b""
        yield message * options.get("times", 1)

    return job
