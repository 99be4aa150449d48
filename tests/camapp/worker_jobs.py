"""Jobs for workers under test: named to the pool as 'tests.camapp.worker_jobs:echo'."""

import os
import time


def echo(model, options):
    """Answers with the message, `options['times']` times over, in one piece; some messages do worse."""

    def job(message):
        if b"poison" in message:
            os._exit(9)
        if b"raise" in message:
            raise ValueError("as asked")
        if b"hang" in message:
            time.sleep(60)
        time.sleep(options.get("seconds", 0))
        for _ in range(options.get("signs", 0)):
            time.sleep(0.2)
            yield b""
        yield message * options.get("times", 1)

    return job
