"""Label formats with a file an image, and CVAT's: one module a format, each with ``read``.

``segc.data.dataset`` lists the images of a split and asks the format's module for the objects of each.
"""
