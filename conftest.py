pytest_plugins = ["prism.plugin.hooks", "fixtures.run"]
