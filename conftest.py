# With `pip install` pytest finds the plugin by itself (pytest_prism.py); this line is for a checkout on PYTHONPATH alone.
pytest_plugins = ["prism.plugin.hooks"]
