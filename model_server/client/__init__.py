"""Classification of image files, by a server over HTTP or by a bundle in this process."""
