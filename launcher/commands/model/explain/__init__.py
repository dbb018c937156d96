"""`launcher explain`: the pixels of an image that are evidence for or against a class."""
