"""The recursive network, in torch. Never imported by ``arcsolve --help``."""
