"""PRISM: did this adapter make this model better at this job, and is it still as good as last week's?"""

__version__ = "0.1.0"
