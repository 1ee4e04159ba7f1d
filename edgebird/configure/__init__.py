"""Makes, shows and checks the configuration: ``edgebird config``."""
