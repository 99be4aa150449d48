"""Defines the messages between the pool and a worker on their SEQPACKET socket: one message a packet."""

from __future__ import annotations

import struct

# parent -> worker: token, slot, items; for a worker with its own job, the message follows.
# Before the first task comes one JSON packet with the descriptors (see worker.py).
TASK = struct.Struct("<qii")
# worker -> parent: token, status, start and end of inference in monotonic nanoseconds; an error's text follows, or
# with STATUS_PART a piece of the reply that STATUS_DONE completes.
REPLY = struct.Struct("<qiqq")

STATUS_READY, STATUS_DONE, STATUS_ERROR, STATUS_PART = range(4)
PACKET_BYTES = 65536
# A message, or a piece of a reply, leaves room for its header.
MESSAGE_BYTES = PACKET_BYTES - 64
