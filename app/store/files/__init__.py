"""The data folder, the object store behind it, and the files of a backup."""
