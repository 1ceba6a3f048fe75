class DemoError(Exception):
    pass
