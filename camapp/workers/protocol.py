"""What the parent and a worker say to each other over their SEQPACKET socket: one message a packet."""

from __future__ import annotations

import struct

# parent -> worker: token, slot, items; for a worker with a job of its own, its message follows.
# Before the first, one JSON packet with the descriptors (see worker.py).
TASK = struct.Struct("<qii")
# worker -> parent: token, status, start and end of inference in monotonic nanoseconds; an error's text follows, or
# with STATUS_PART a piece of the reply that STATUS_DONE completes.
REPLY = struct.Struct("<qiqq")

STATUS_READY, STATUS_DONE, STATUS_ERROR, STATUS_PART = range(4)
PACKET_BYTES = 65536
# A message, or a piece of a reply, leaves room for its header.
MESSAGE_BYTES = PACKET_BYTES - 64
