"""A window that shows what is found while it is found, where there is a display and OpenCV has windows."""

import ctypes
import ctypes.util
import os
import sys
import threading
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

WINDOW_SIDES = 1280, 800
"""Width and height in pixels that the window begins with, at most; a person may change them."""

END_KEYS = b"qQ\x1b"
"""Keys that end the program: q and Escape."""

LOOK_MILLISECONDS = 50
"""How often a window with a photograph looks up whether it was closed, or the program is to end."""


class ShowError(ValueError):
    """Nothing can be shown here; the text says why, and what to do."""


def windows_problem() -> str | None:
    """Why no window can be opened here; None where one can."""
    if "NONE" in next((line for line in cv2.getBuildInformation().splitlines() if "GUI:" in line), ""):
        return (
            "this build of OpenCV has no windows: put opencv-python in the place of opencv-python-headless "
            "(pip uninstall opencv-python-headless, then pip install opencv-python)"
        )
    if sys.platform != "linux":
        return None
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display: neither DISPLAY nor WAYLAND_DISPLAY is set (ssh -X gives one)"
    # OpenCV would end the process where the display does not answer.
    library = ctypes.util.find_library("X11")
    if library is None or os.environ.get("WAYLAND_DISPLAY"):
        return None
    x11 = ctypes.CDLL(library)
    x11.XOpenDisplay.restype = ctypes.c_void_p
    if (display := x11.XOpenDisplay(None)) is None:
        return f"the display {os.environ['DISPLAY']} does not answer"
    x11.XCloseDisplay(ctypes.c_void_p(display))
    return None


class Window:
    """A window, open as long as the block lasts.

    Args:
        title: what stands above it.

    Raises:
        ShowError: where there can be none.
    """

    def __init__(self, title: str) -> None:
        if problem := windows_problem():
            raise ShowError(f"--show: {problem}")
        # ASCII is shown everywhere; what else a window may be called differs from system to system.
        self._title = title.encode("ascii", "replace").decode()
        self._is_open = False

    def __enter__(self) -> "Window":
        return self

    def show(self, picture: npt.NDArray[np.uint8], stopped: threading.Event, *, waits: bool) -> bool:
        """Show a picture; False where a person ended it, with q, Escape, or by closing the window.

        Args:
            picture: [h, w, 3] BGR.
            stopped: set where the program is to end.
            waits: leave it there until a key is pressed, as for a photograph; the next frame of a video replaces it.
        """
        if not self._is_open:
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            factor = min(1.0, *(most / side for most, side in zip(WINDOW_SIDES, picture.shape[1::-1], strict=True)))
            cv2.resizeWindow(self._title, *(max(1, round(side * factor)) for side in picture.shape[1::-1]))
            self._is_open = True
        cv2.imshow(self._title, picture)
        while True:
            key = cv2.waitKey(LOOK_MILLISECONDS if waits else 1)
            if key & 0xFF in END_KEYS or cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
                return False
            if not waits or key >= 0 or stopped.is_set():
                return True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._is_open:
            cv2.destroyWindow(self._title)
            cv2.waitKey(1)  # which is when it goes
