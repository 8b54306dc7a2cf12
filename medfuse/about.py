"""What the package is: its version, and the notice that stands wherever results appear."""

__version__ = "0.2.0"
NOTICE = "Research use only. Not a medical device. Not for diagnosis."
