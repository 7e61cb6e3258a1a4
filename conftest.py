pytest_plugins = ["prism.pytest_plugin", "fixtures.run"]
