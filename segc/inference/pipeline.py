"""Stages that work at the same time, one behind the other: each iterates in a thread of its own, a few items ahead."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WAIT_SECONDS = 0.5
"""How often whoever waits looks up: on some systems nothing else lets a signal through."""

LEAVE_SECONDS = 5.0
"""How long the end of a line waits for a stage that is busy; its thread ends with the process at the latest."""


class Line:
    """An assembly line. Order is kept, memory is bounded by the room of its stages; leaving the block ends all of them.

    Attributes:
        stopped: set when the line is to end early: nothing more comes out of any stage.
    """

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._feeds: list[_Feed[Any]] = []

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for feed in self._feeds:
            feed.thread.join(LEAVE_SECONDS)

    def stop(self) -> None:
        """End the line: every stage ends after the item that it is busy with. Fit for the handler of a signal."""
        self.stopped.set()

    def stage(
        self, items: Iterable[Item], room: int = 2, *, dropped: Callable[[], None] | None = None
    ) -> Iterator[Item]:
        """Iterate ``items`` in a thread.

        Args:
            items: what comes in; an error of theirs comes out in its place.
            room: items that may wait to be taken.
            dropped: called for the oldest one where there is no room left, which is then gone; without it ``items``
                wait for room.
        """
        feed = _Feed(items, room, dropped, self.stopped)
        self._feeds.append(feed)
        feed.thread.start()
        return feed

    def spread(self, function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
        """``function`` of every item, in the items' order, by several threads; twice as many items are under way."""
        if workers == 1:
            yield from map(function, items)
            return
        orders: SimpleQueue[tuple[Future[Result], Item] | None] = SimpleQueue()
        under_way: deque[Future[Result]] = deque()

        def work() -> None:
            while (order := orders.get()) is not None:
                future, item = order
                try:
                    future.set_result(function(item))
                except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
                    future.set_exception(error)

        try:
            for _ in range(workers):
                threading.Thread(target=work, daemon=True).start()
            for item in items:
                under_way.append(Future())
                orders.put((under_way[-1], item))
                if len(under_way) == 2 * workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for _ in range(workers):
                orders.put(None)


class _Feed(Generic[Item]):
    """What one stage has made and the next one has not taken yet."""

    def __init__(
        self, items: Iterable[Item], room: int, dropped: Callable[[], None] | None, stopped: threading.Event
    ) -> None:
        self.thread = threading.Thread(target=self._fill, args=(items,), daemon=True)
        self._room, self._dropped, self._stopped = room, dropped, stopped
        self._ready: deque[Item] = deque()
        self._change = threading.Condition()
        self._error: BaseException | None = None
        self._is_done = False

    def __iter__(self) -> "_Feed[Item]":
        return self

    def __next__(self) -> Item:
        with self._change:
            while not self._ready and not self._is_done and not self._stopped.is_set():
                self._change.wait(WAIT_SECONDS)
            if self._ready and not self._stopped.is_set():
                self._change.notify_all()
                return self._ready.popleft()
        if self._error is not None and not self._stopped.is_set():
            raise self._error
        raise StopIteration

    def _fill(self, items: Iterable[Item]) -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                self._put(item)
                if self._stopped.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 - raised in the thread that takes the items
            self._error = error
        finally:
            # Closed by the thread that ran it: its own stages, files and devices end here.
            if (close := getattr(iterator, "close", None)) is not None:
                close()
            with self._change:
                self._is_done = True
                self._change.notify_all()

    def _put(self, item: Item) -> None:
        with self._change:
            if self._dropped is None:
                while len(self._ready) >= self._room and not self._stopped.is_set():
                    self._change.wait(WAIT_SECONDS)
            elif len(self._ready) >= self._room:
                self._ready.popleft()
                self._dropped()
            self._ready.append(item)
            self._change.notify_all()
