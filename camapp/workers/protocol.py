"""What the parent and a worker say to each other over their SEQPACKET socket: one message a packet."""

from __future__ import annotations

import struct

# parent -> worker: token, slot, items.  Before the first, one JSON packet with the descriptors (see worker.py).
TASK = struct.Struct("<qii")
# worker -> parent: token, status, start and end of inference in monotonic nanoseconds; an error's text follows.
REPLY = struct.Struct("<qiqq")

STATUS_READY, STATUS_DONE, STATUS_ERROR = range(3)
PACKET_BYTES = 65536
