"""The queue of outgoing messages, without a broker."""

from itertools import count

from camapp.remote.mqtt.queue import Message, OutgoingQueue


def send_all(queue, published):
    numbers = count(len(published))

    def publish(message):
        published.append(message.payload)
        return next(numbers)

    while queue.send_next(publish):
        pass


def test_states_replace_each_other_and_overtake_events():
    queue, published = OutgoingQueue(), []
    for number in range(3):
        queue.put(Message("event", b"event %d" % number))
        queue.set(Message("state", b"state %d" % number))
    send_all(queue, published)
    assert published == [b"state 2", b"event 0", b"event 1", b"event 2"]


def test_the_oldest_events_are_dropped_and_counted():
    queue, published = OutgoingQueue(capacity=2), []
    for number in range(5):
        queue.put(Message("event", b"%d" % number))
    assert (len(queue), queue.lost) == (2, 3)
    send_all(queue, published)
    assert published == [b"3", b"4"]


def test_acknowledged_messages_are_sent_and_rejected_ones_lost():
    queue, published = OutgoingQueue(), []
    queue.put(Message("event", b"0"))
    queue.put(Message("event", b"1"))
    send_all(queue, published)
    assert queue.in_flight == 2
    assert queue.acknowledge(0) == Message("event", b"0")
    assert queue.acknowledge(1, accepted=False) == Message("event", b"1")
    assert queue.acknowledge(1) is None
    assert (queue.sent, queue.lost, queue.is_idle) == (1, 1, True)


def test_after_a_lost_connection_events_are_sent_again_in_order_and_states_are_not():
    queue, published = OutgoingQueue(capacity=3), []
    queue.set(Message("state", b"state"))
    for number in range(2):
        queue.put(Message("event", b"%d" % number))
    send_all(queue, published)
    for number in range(2, 4):
        queue.put(Message("event", b"%d" % number))
    queue.requeue()
    assert (len(queue), queue.in_flight, queue.lost) == (3, 0, 1)
    published.clear()
    send_all(queue, published)
    assert published == [b"1", b"2", b"3"]
