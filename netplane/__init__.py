"""netplane: pod networking and Service load balancing for Linux, in Python."""

__version__ = "0.1.0"
