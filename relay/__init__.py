"""relay: a webhook receiver and callback relay for applications that make AI videos."""

__version__ = "0.1.0"
