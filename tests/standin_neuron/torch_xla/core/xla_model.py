"""What diffusers calls between steps."""


def mark_step(*_, **__):
    """Nothing is pending."""
