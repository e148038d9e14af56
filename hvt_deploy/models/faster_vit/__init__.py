"""FasterViT: specification, reference form and deployed form."""
