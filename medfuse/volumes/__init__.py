"""Volumes as their scanner measured them: restored from proposals, on the grid of the MRI, by the data on their own."""
