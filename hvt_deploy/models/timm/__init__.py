"""timm's models by name."""
